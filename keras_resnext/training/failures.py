"""What went wrong while images were shown, in words."""

import numpy as np

from ..data import Listing, find_unreadable
from ..network.input_preprocessing import get_preprocessing
from ..os_errors import is_out_of_memory, is_tensorflow_error
from .session import Session, describe_state

AHEAD = 32  # batches that may have been begun before the one that failed was shown


def explain_failure(
    error: Exception, session: Session, training: Listing, validation: Listing | None
) -> Exception | None:
    """The error to raise in place of one that came out of TensorFlow or JAX; None where `error` says it best itself.

    An image that has vanished or is broken since training began is found by looking at those that were about to be
    shown: neither library says which one it was.
    """
    kept = describe_state(session.folder)
    if is_out_of_memory(error):
        return RuntimeError(
            f"the device has too little memory for batches of {session.plan.batch_size} images: give a smaller "
            f"batch_size, and accumulate the gradients of several; {kept}"
        )
    if session.validating and validation is not None:
        listing, indices = validation, np.arange(len(validation))
    else:
        step = session.guard.step if session.guard else session.step
        listing, indices = training, np.concatenate([session.plan.step(step + i).indices for i in range(AHEAD)])
    bands = get_preprocessing(session.model).bands
    for index, reason in find_unreadable(listing, np.unique(indices), bands=bands).items():
        return RuntimeError(f"image {listing.name(index)!r} can be read no more: {reason}; {kept}")
    if is_tensorflow_error(error):
        return RuntimeError(f"TensorFlow failed: {str(error).splitlines()[0]}; {kept}")
    return None
