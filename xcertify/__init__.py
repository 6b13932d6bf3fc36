"""xcertify: certified explanations for Keras models.

The parts are imported from their modules, so that ``import xcertify`` stays fast::

    from xcertify.attributions import EVA
    from xcertify.bounds import Verifier
    from xcertify.metrics import Deletion, Insertion
    from xcertify.plots import plot_attributions
"""

__version__ = "0.1.0"
