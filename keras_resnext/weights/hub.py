"""Models on Hugging Face's hub by name, "hf://owner/name@revision": its own library downloads and caches them."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from ..pytorch.folder import FILES, PICKLES, is_checkpoint_folder, list_shards
from .download import DownloadError
from .hub_config import CONFIG, read_hub_config
from .published import PUBLISHED, warn_of_licence

T = TypeVar("T")

INSTALL = "pip install 'keras_resnext[hub]'"
_FORM = re.compile(r"hf:/{1,2}(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^\s@]+))?")  # a Path has one slash
_PREFIXES = ("hf:", "hf-hub:", "hf_hub:")  # timm's are told of ours


def is_on_hub(name: object) -> bool:
    """Whether a name of a model means one on the hub."""
    return isinstance(name, (str, os.PathLike)) and str(name).startswith(_PREFIXES)


def fetch_from_hub(name: T) -> T | Path:
    """The folder in the hub's cache with the config.json and the weights of "hf://owner/name[@revision]".

    Anything else is returned as it is. `huggingface_hub` does the work, so its cache, its token, `HF_ENDPOINT` and
    `HF_HUB_OFFLINE` apply. A pickle is fetched only where there is no safetensors file.

    Args:
        name: of a model; the revision is a branch, a tag or a commit, by default "main".

    Raises:
        ImportError: huggingface_hub is not installed.
        ValueError: not of that form, no such revision, a repository without weights or of another architecture.
        FileNotFoundError: no such repository, or none that the token may see.
        DownloadError: the files cannot be fetched, as from a gated repository, or offline.
    """
    if not is_on_hub(name):
        return name
    text = str(name)
    found = _FORM.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r} must be hf://OWNER/NAME or hf://OWNER/NAME@REVISION")
    repository, revision = found["repository"], found["revision"]
    with _told(repository, revision):
        folder = _fetch(repository, revision)
    if row := next((row for row in PUBLISHED if row.hub == repository), None):
        warn_of_licence(row)
    return folder


def _fetch(repository: str, revision: str | None) -> Path:
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    unreachable: list[Exception] = []
    commit = [revision]

    def get(file: str) -> Path | None:
        """The file in the cache; None where the repository has none, or none is cached and the hub is out of reach."""
        try:
            path = Path(hf_hub_download(repository, file, revision=commit[-1], library_name="keras_resnext"))
            commit.append(path.parent.name)  # the others come from the same one, whatever is pushed meanwhile
            return path
        except LocalEntryNotFoundError as error:
            unreachable.append(error)
        except EntryNotFoundError:
            pass
        return None

    def whole(file: str) -> Path | None:
        """The folder with this file and, of an index, all that it names."""
        path = get(file)
        shards = list_shards(path) if path is not None and path.suffix == ".json" else []
        return path.parent if path is not None and all(map(get, shards)) else None

    if config := get(CONFIG):
        read_hub_config(config.parent)  # another architecture's weights need not be fetched
    safe, pickled = (tuple(name for name in FILES if name.endswith(PICKLES) == pickles) for pickles in (False, True))
    indexed = [name for file in safe for name in (file, f"{file}.index.json")]
    if folder := next(filter(None, map(whole, indexed)), None):
        return folder
    # Whether there is a safetensors file of another name only the list says; what is cached was chosen with it.
    names = (
        None if unreachable else HfApi(library_name="keras_resnext").list_repo_files(repository, revision=commit[-1])
    )
    if names is None and config is not None and is_checkpoint_folder(config.parent):
        return config.parent
    chosen = [f for file in pickled for f in (file, f"{file}.index.json")] if names is None else _choose(names, pickled)
    if folder := next(filter(None, map(whole, chosen)), None):
        return folder
    if unreachable:
        raise unreachable[0]
    held = ", ".join(sorted(names or ())[:8]) or "nothing"
    raise ValueError(
        f"{_name(repository, revision)} holds no weights under names that are known ({', '.join(FILES)}), but {held}; "
        "download the right file and give its path"
    )


def _choose(names: Sequence[str], pickled: Sequence[str]) -> list[str]:
    """Which of a repository's files may have the weights: its one safetensors file, else a pickle; [] for none."""
    top = [name for name in names if "/" not in name]
    safe = [name for name in top if name.endswith(".safetensors")]
    if safe:
        return safe if len(safe) == 1 and CONFIG in top else []
    usual = [name for file in pickled for name in (file, f"{file}.index.json") if name in top]
    others = [name for name in top if name.endswith(PICKLES)]
    return usual or (others if len(others) == 1 and CONFIG in top else [])


def _name(repository: str, revision: str | None) -> str:
    return f"hf://{repository}" + (f"@{revision}" if revision else "")


@contextmanager
def _told(repository: str, revision: str | None) -> Iterator[None]:
    """Says in one line what the hub's library raises, and what to do."""
    name = _name(repository, revision)
    try:
        from huggingface_hub import constants, errors
    except ImportError as error:
        raise ImportError(f"{name} needs huggingface_hub: {INSTALL}") from error
    login = "log in with `hf auth login` or set HF_TOKEN"
    address = f"{constants.ENDPOINT}/{repository}"
    try:
        yield
    except errors.HFValidationError as error:
        raise ValueError(f"{name} is no name of a repository: {str(error).splitlines()[0]}") from error
    except errors.GatedRepoError as error:
        raise DownloadError(f"{name} is gated: accept its conditions at {address}, then {login}") from error
    except errors.RepositoryNotFoundError as error:
        raise FileNotFoundError(f"{name}: there is no such model at {address}; if it is private, {login}") from error
    except errors.RevisionNotFoundError as error:
        raise ValueError(f"{name}: no branch, tag or commit is called {revision!r}; see {address}/tree/main") from error
    except errors.LocalEntryNotFoundError as error:
        offline = constants.HF_HUB_OFFLINE
        why = "HF_HUB_OFFLINE is set" if offline else f"{constants.ENDPOINT} cannot be reached"
        advice = "unset it" if offline else "check the connection and HF_ENDPOINT"
        raise DownloadError(
            f"{name} is not in {constants.HF_HUB_CACHE}, and {why}; {advice}, then try again"
        ) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        advice = login if status in (401, 403) else "try again later"
        raise DownloadError(f"{name} cannot be downloaded: HTTP {status} from {address}; {advice}") from error
    except (ValueError, OSError):
        raise
    except Exception as error:  # what its client for HTTP raises where a connection breaks
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise DownloadError(f"{name} cannot be downloaded from {address} ({reason}); try again") from error
