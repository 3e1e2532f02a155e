"""What goes wrong between here and the Hugging Face hub, in one sentence that says what to do."""

import errno
from collections.abc import Generator
from contextlib import contextmanager

from mlxarch.errors import CheckpointError, DoesNotFit, HubError


class NotFoundError(HubError):
    """There is no such folder and no such repository, or it may not be seen."""

    exit_code = 3


@contextmanager
def explained(
    repo: str, revision: str | None = None, offline: bool = False
) -> Generator[None, None, None]:
    """Whatever goes wrong between here and the hub, as one sentence that says what to do."""
    from huggingface_hub import constants, errors

    where = f"https://huggingface.co/{repo}"
    try:
        yield
    except errors.GatedRepoError as error:
        raise HubError(
            f"{repo} is gated; accept its terms at {where}, then log in with `hf auth login`."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise NotFoundError(
            f"The hub has no {repo}, or it is private; check the spelling, "
            "or log in with `hf auth login`."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise NotFoundError(f"{repo} has no revision {revision!r}; see {where}.") from error
    except errors.NotASafetensorsRepoError as error:
        raise CheckpointError(
            f"{repo} has no model*.safetensors; convert needs safetensors."
        ) from error
    except errors.RemoteEntryNotFoundError as error:
        raise NotFoundError(f"{repo} has no config.json, so it holds no model.") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        if offline:
            raise HubError(
                f"{repo} is not, or not wholly, in the hub's cache, and mlxarch is offline; "
                "run once without --offline and HF_HUB_OFFLINE."
            ) from error
        raise HubError(
            f"The hub cannot be reached and {repo} is not in its cache; "
            "check the network and try again."
        ) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DoesNotFit(
                f"The disk is full, so {repo} could not be downloaded whole; free some space "
                f"around {constants.HF_HUB_CACHE} and run again: what came is kept."
            ) from error
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise HubError(
            f"{repo} could not be fetched: {reason[0].rstrip('.')}. "
            "Try again, what came is kept; or use --offline for what is in the cache."
        ) from error
