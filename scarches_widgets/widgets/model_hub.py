"""Models of this machine and of Zenodo as cards: do my cells fit, download, load, share."""

from __future__ import annotations

import html
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import traitlets

from .. import hub
from ..data.container import MANIFEST, DamagedFile
from ..data.findings import counted
from ..data.names import did_you_mean, shown
from ..hub import zenodo
from ..hub.cards import CARD, Compatibility, ModelCard, compatibility, read_card
from ..hub.pickles import read_pickle
from ..hub.secret import Secret
from .base import HERE, Publisher, View, inlined
from .model_hub_entries import MOST_FOLDERS, Entry, LocalEntry, RemoteEntry, found_in, readable
from .panel import collected_logs, collected_warnings
from .session import Session

if TYPE_CHECKING:
    from anndata import AnnData

    from ..models.base import Model

PAGE = 10  # records of a search
AT_ONCE = 12  # cards of a folder that cells are compared with unasked
SMALL_CARD = 4_000_000  # bytes up to which a record's card is fetched unasked
LONGEST_QUERY, LONGEST_NAME, MOST_AUTHORS = 300, 100, 100
LONGEST_TOKEN = 1_000
PATIENCE = 5.0  # seconds that a view waits to be displayed, for what the notebook saves, and a name for its model
LARGEST_TITLE, LARGEST_TEXT = 200, 100_000  # characters of a card


class ModelHub(View):
    """Models of this machine and of Zenodo: search, see whether cells fit, download, load, edit the card, share.

    Parameters
    ----------
    folder
        Where models lie, each in a folder of its own as `sca.hub.save` writes them. Downloads go there too; then it is
        made if there is none.
    query
        Cells to be mapped (AnnData or MuData): each card says whether they fit, before its model is fetched. None:
        those of the session, if it has any.
    session
        Gets each loaded model as its `model`.

    Attributes
    ----------
    model
        What was loaded last; None before.
    cards
        Name of a folder → its `ModelCard`.
    records
        What was found on Zenodo, as `zenodo.Record`.
    query
        Can be set; `refresh` then compares it with the cards.
    draft
        The draft that a model was last uploaded into: its `id`, `link`, `title`, and `state`, which is "begun" (without
        the model), "filled" or "public"; empty before.

    Raises
    ------
    TypeError
        If `query` is no AnnData or MuData.
    ValueError
        If `folder` is a model itself.

    Notes
    -----
    Records are searched on Zenodo, its sandbox, or the server of `sca.hub.zenodo.configure`; models are uploaded to
    where that says, which is the sandbox unless it is told otherwise. Nothing is asked of any server before a click.

    The token is typed into a field that the page empties at once. It travels as bytes beside a message, not in its text
    (which Jupyter logs when debugging), is kept for one upload or one publication, and is no part of the state. With
    the environment variable ZENODO_SANDBOX_TOKEN (ZENODO_TOKEN for Zenodo itself) it need not be typed.

    Keys: Tab from control to control, Enter in the search field asks Zenodo, Escape leaves the view.

    Examples
    --------
    >>> models = ModelHub("models", query)
    >>> models.search("lung atlas", site="https://zenodo.org")
    >>> models.wait()
    >>> models.download(models.records[0].link)
    """

    _esm = inlined(Path(__file__).with_suffix(".js"))
    _css = View._css + "".join((HERE / "js" / name).read_text(encoding="utf-8") for name in ("form.css", "hub.css"))
    saved_as = "svg"
    facts = traitlets.Unicode().tag(sync=True)  # folder and query, in words
    has_query = traitlets.Bool().tag(sync=True)
    sites = traitlets.List().tag(sync=True)  # where can be searched: address and name
    target = traitlets.Dict().tag(sync=True)  # where models are uploaded to, and whether a token is known there
    local = traitlets.List().tag(sync=True)  # models of the folder, as LocalEntry.for_page
    remote = traitlets.List().tag(sync=True)  # records, as RemoteEntry.for_page
    finding = traitlets.Dict().tag(sync=True)  # what was searched for, and how far the search is
    work = traitlets.Dict().tag(sync=True)  # the one thing being done, or what became of the last one
    loaded = traitlets.Unicode().tag(sync=True)  # key of the loaded model
    editing = traitlets.Dict().tag(sync=True)  # key of the model to share, and its card's title and text
    draft = traitlets.Dict().tag(sync=True)
    script = traitlets.Unicode().tag(sync=True)  # what code() returns

    commands = {  # noqa: RUF012
        "refresh": "_click_refresh",
        "search": "_click_search",
        "stop_search": "_click_stop_search",
        "check": "_click_check",
        "download": "_click_download",
        "load": "_click_load",
        "cancel": "_click_cancel",
        "choose": "_click_choose",
        "edit": "_click_edit",
        "upload": "_click_upload",
        "publish": "_click_publish",
        "forget": "_click_forget",
    }

    def __init__(
        self,
        folder: str | os.PathLike = "models",
        query: AnnData | None = None,
        *,
        session: Session | None = None,
    ):
        self.session = Session() if session is None else session
        self.query = _checked(self.session.adata if query is None else query)
        self.folder = Path(folder)
        here = self._path()
        if any((here / name).is_file() for name in (MANIFEST, CARD, "model.pt", "attr.pkl")):
            raise ValueError(
                f"'{folder}' holds a model itself. Pass the folder that it lies in: ModelHub('{self.folder.parent}')."
            )
        self.model: Model | None = None
        self.records: list[zenodo.Record] = []
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._closed = False
        self._local: dict[str, LocalEntry] = {}
        self._remote: dict[str, RemoteEntry] = {}
        self._n_more = 0  # folders that are not listed
        self._edits: dict[str, dict[str, str]] = {}  # name of a model -> what was changed on its card
        self._steps: dict[tuple, list[str]] = {}  # what was done, as code
        self._busy, self._outcome = False, None
        self._work: dict[str, Any] = {}
        self._cancel, self._searching = threading.Event(), threading.Event()
        self._publisher = Publisher(self._show)
        self._looks, self._searches, self._works = (
            _Worker(f"scarches-hub-{what}", self._tell) for what in ("look", "search", "work")
        )
        super().__init__(finding={"text": "", "site": self._sites[0][0], "page": 1, "state": "none", "more": False})
        self.refresh()

    def close(self) -> None:
        if self.comm is not None:
            self._closed = True
            self._cancel.set()
            self._searching.set()
            self._publisher.close()
        super().close()

    # What there is

    def _path(self, name: str = "") -> Path:
        return self.folder.expanduser() / name

    @property
    def cards(self) -> dict[str, ModelCard]:
        """Name of a folder → its card; models without one are left out."""
        with self._lock:
            return {name: entry.card for name, entry in self._local.items() if entry.card is not None}

    @property
    def _sites(self) -> list[list[str]]:
        """Where can be searched; a server of one's own first."""
        webs = dict.fromkeys([zenodo.current_site().web, zenodo.ZENODO, zenodo.SANDBOX])
        ordered = sorted(webs, key=lambda web: (web == zenodo.SANDBOX, web == zenodo.ZENODO))
        return [[web, web.partition("://")[2]] for web in ordered]

    def refresh(self) -> None:
        """Look into the folder again, and compare the query with all cards anew."""
        with self._lock:
            self._looks.do(self._look)
            self._show()

    def wait(self, timeout: float | None = None) -> str:
        """Wait until nothing is under way, at most `timeout` seconds; the status then."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._busy or self._is_looking), timeout)
            self._show()
            return self.status

    @property
    def _is_looking(self) -> bool:
        return self._looks.is_busy or self._searches.is_busy

    def _has_looked(self) -> None:
        """Wait a moment for what the notebook saves of the cards; not for a download."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_looking, PATIENCE)
            self._show()

    def _tell(self, error: Exception | None) -> None:
        """A worker has nothing more to do, or could not do something."""
        with self._changed:
            if error is not None:
                self.show_error(error)
            self._changed.notify_all()
        self._publisher.touch()

    def _show(self) -> None:
        """Bring to the page what has changed."""
        if self._closed:
            return
        with self._lock, self.hold_sync():
            site = zenodo.current_site()
            self.sites = self._sites
            self.target = {
                "name": site.web.partition("://")[2],
                "sandbox": site.web == zenodo.SANDBOX,
                "variable": site.variable,
                "has_token": bool(os.environ.get(site.variable)),
                "on_binder": zenodo.on_binder(),
            }
            self.local = [entry.for_page() for entry in self._local.values()]
            self.remote = [entry.for_page() for entry in self._remote.values()]
            self.work = dict(self._work)
            self.has_query = self.query is not None
            more = f" (and {self._n_more:,} more)" if self._n_more else ""
            facts = [f"{counted(len(self._local), 'model')}{more} in {shown(self.folder)}"]
            if self.query is not None:
                facts.append(f"query: {counted(self.query.n_obs, 'cell')} × {counted(self.query.n_vars, 'gene')}")
            else:
                facts.append("no query: ModelHub(query=adata) says whether its cells fit")
            self.facts = " · ".join(facts)
            self.status = self._status()
            self.script = self.code()

    def _status(self) -> str:
        if self._busy:
            return "stopping" if self._cancel.is_set() else "running"
        return self._outcome or ("ready" if self._local or self._remote else "empty")

    # Looking, and searching, each on a thread of its own

    def _look(self) -> None:
        """Read the folder's cards, and compare the cells with the first ones."""
        with self._lock:
            for entry in (*self._local.values(), *self._remote.values()):
                entry.fit = None
        self._list()
        self._compare_first()

    def _list(self) -> None:
        """Read the folder's cards."""
        found = found_in(self._path())
        entries = {entry.name: entry for entry in islice(found, MOST_FOLDERS)}
        with self._lock:
            for name, entry in entries.items():
                if name in self._local and self._local[name].card == entry.card:
                    entry.fit = self._local[name].fit
            self._local, self._n_more = entries, sum(1 for _ in found)
            self._look_at_records()
        self._publisher.touch()

    def _look_at_records(self) -> None:
        """See what of the records is on this machine."""
        for entry in self._remote.values():
            entry.look_into(self._path(), self._local)

    def _compare_first(self) -> None:
        with self._lock:
            entries = [*islice(self._local.values(), AT_ONCE), *self._remote.values()]
        for entry in entries:
            self._compare(entry)

    def _compare(self, entry: Entry, cancel: threading.Event | None = None) -> None:
        """Whether the cells fit a card."""
        if self.query is None or entry.card is None or entry.fit is not None or self._closed:
            return
        if cancel is not None and cancel.is_set():
            return
        entry.fit = "checking"
        self._publisher.touch()
        entry.check(self.query)
        self._publisher.touch()

    def _fetch_card(self, entry: RemoteEntry, cancel: threading.Event) -> None:
        try:
            if (card := zenodo.get_card(entry.record, cancel=cancel)) is not None:
                entry.take(card)
        except zenodo.Cancelled:
            return
        except Exception as error:  # noqa: BLE001 - becomes a sentence on the card
            entry.problem = f"Its card could not be read: {shown_in_full(error)}"
        with self._lock:
            entry.look_into(self._path(), self._local)
        self._publisher.touch()

    def check(self, key: str) -> None:
        """Compare the query with one more card, which is fetched if need be; `key` as in `local` and `remote`."""
        entry = self._entry(key)

        def compare() -> None:
            if entry.card is None and isinstance(entry, RemoteEntry):
                self._fetch_card(entry, threading.Event())
            self._compare(entry)

        self._looks.do(compare)

    def search(self, text: str, site: str | None = None) -> None:
        """Ask for records; `wait` waits for the answer.

        Parameters
        ----------
        text
            Words, or an expression of Zenodo's search.
        site
            As in `zenodo.search`.
        """
        self._ask(text, zenodo.current_site().web if site is None else site, 1)

    def more(self) -> None:
        """Ask for the next page of the last search's records."""
        if not self.finding["more"]:
            raise ValueError("There are no more records to ask for.")
        self._ask(self.finding["text"], self.finding["site"], self.finding["page"] + 1)

    def _ask(self, text: str, site: str, page: int) -> None:
        if not text.strip():
            raise ValueError("There is nothing to search for. Type some words, such as 'lung atlas'.")
        if site not in [web for web, _ in self._sites]:
            raise ValueError(f"'{shown(site)}' is none of the places to search.")
        with self._lock:
            self._searching.set()
            self._searching = threading.Event()
            self.finding = {"text": text, "site": site, "page": page, "state": "running", "more": False}
            self._searches.do(partial(self._find, text, site, page, self._searching))
            self._show()

    def _find(self, text: str, site: str, page: int, cancel: threading.Event) -> None:
        state: dict[str, Any] = {"state": "done", "more": False}
        found: list[zenodo.Record] = []
        try:
            found = zenodo.search(text, page=page, size=PAGE, site=site, cancel=cancel)
            state["more"] = len(found) == PAGE
        except zenodo.Cancelled:
            state = {"state": "stopped", "more": False}
        except Exception as error:  # noqa: BLE001 - shown
            state = {"state": "failed", "more": False, "problem": shown_in_full(error)}
        with self._lock:
            if self._searching is not cancel:
                return
            entries = {entry.key: entry for entry in (RemoteEntry(record=record) for record in found)}
            if state["state"] == "done":
                self._remote = entries if page == 1 else {**self._remote, **entries}
                self.records = [entry.record for entry in self._remote.values()]
                where = "" if site == zenodo.current_site().web else f", site={site!r}"
                and_page = "" if page == 1 else f", page={page}"
                self._did(("search",), f"records = zenodo.search({text!r}{and_page}{where})")
            self._look_at_records()
            self.finding = {**self.finding, **state}
        self._publisher.touch()
        for entry in entries.values():
            if cancel.is_set():
                return
            if entry.record.has_card and entry.size_of_card <= SMALL_CARD:
                self._fetch_card(entry, cancel)
            self._looks.do(partial(self._compare, entry, cancel))

    def _entry(self, key: Any) -> Entry:
        with self._lock:
            for entry in (*self._local.values(), *self._remote.values()):
                if entry.key == key:
                    return entry
        raise ValueError(f"There is no model '{shown(key)}' here any more.")

    def _named(self, name: str) -> LocalEntry:
        with self._changed:  # a new hub may be looking through its folder still
            self._changed.wait_for(lambda: name in self._local or not self._looks.is_busy, PATIENCE)
            if name not in self._local:
                near = did_you_mean(name, self._local)
                raise ValueError(f"There is no model '{shown(name)}' in '{shown(self.folder)}'.{near}")
            return self._local[name]

    # Work, one at a time, on a thread of its own

    def _check_idle(self) -> None:
        if self._busy:
            raise RuntimeError(f"{self._work['stage']} is under way. Wait for it, or cancel it.")

    def _begin(self, op: str, key: str, stage: str, function: Callable[[threading.Event], str]) -> None:
        """Do something whose outcome `function` tells in words."""
        with self._lock:
            self._check_idle()
            self._busy, self._outcome, self.error = True, None, None
            self._cancel = threading.Event()
            self._work = {"op": op, "key": key, "stage": stage, "done": 0, "total": 0}
            self._works.do(partial(self._carry_out, function, self._cancel))
            self._show()

    def _carry_out(self, function: Callable[[threading.Event], str], cancel: threading.Event) -> None:
        outcome, words, failure = "done", "", None
        try:
            words = function(cancel)
        except zenodo.Cancelled as stop:
            outcome, words = "stopped", str(stop)
        except Exception as error:  # noqa: BLE001 - shown
            outcome, failure = "failed", error
        with self._changed:
            self._work = {"op": self._work["op"], "key": self._work["key"], "words": words}
            if failure is not None:
                self.show_error(failure)
            self._look_at_records()  # for what a download has left
            self._busy, self._outcome = False, outcome
            self._show()
            self._changed.notify_all()

    def _progressing(self) -> Callable[[int, int], None]:
        """To be told of bytes; the page is told how many come in a second, too."""
        start: list[float | int] = []

        def tell(done: int, total: int) -> None:
            now = time.monotonic()
            start[:] = start or [now, done]  # what an earlier try has left does not count
            seconds = now - start[0]
            rate = (done - start[1]) / seconds if seconds > 0.5 else None
            self._work = {**self._work, "done": done, "total": total, "rate": rate}
            self._publisher.touch()

        return tell

    def cancel(self) -> None:
        """Stop the download or upload under way. What was fetched is kept, and the next try goes on from it."""
        with self._lock:
            if self._busy:
                self._cancel.set()
            self._show()

    def download(self, link: str, file: str | None = None, overwrite: bool = False) -> None:
        """Fetch a published model into the folder, checked, in the background; `wait` waits for it.

        Parameters
        ----------
        link, file, overwrite
            As in `zenodo.download_model`.
        """
        key = f"remote:{link}"
        entry = self._remote.get(key)
        card = entry.card if entry is not None else None

        def fetch(cancel: threading.Event) -> str:
            path = zenodo.download_model(
                link, self._path(), file=file, overwrite=overwrite, progress=self._progressing(), cancel=cancel
            )
            lines, options = [], f", file={file!r}" * (file is not None) + ", overwrite=True" * overwrite
            if card is not None and self.query is not None:
                lines += [f"card = zenodo.get_card({link!r})", "print(sca.hub.compatibility(query, card))"]
            lines.append(f"folder = zenodo.download_model({link!r}, {str(self.folder)!r}{options})")
            self._did(("download", link, file), *lines)
            self._list()
            self._looks.do(self._compare_first)
            new = self._local.get(Path(path).name)
            if card is not None and new is not None and new.card is not None and new.card.digest != card.digest:
                raise DamagedFile(
                    f"'{new.name}' is another model than the record's card describes, so what was said of it before "
                    "may be wrong. Look at its own card, among the models of this machine."
                )
            return f"Downloaded and checked: it is in {shown(self.folder / Path(path).name)}."

        what = file or (entry.record.archives[0].name if entry is not None and entry.record.archives else link)
        self._begin("download", key, f"Downloading {shown(what)}", fetch)

    def load(self, name: str) -> None:
        """Read a model of the folder, in the background; it is then `model`, and the session's."""
        entry = self._named(name)

        def read(cancel: threading.Event) -> str:
            with collected_warnings() as notes:
                model, reader = _read(self._path(name), entry.kind)
            with self._lock:
                self.model = self.session.model = model
                self.loaded = entry.key
                self._did(("load", name), f"model = sca.hub.{reader}({str(self.folder / name)!r})")
            if entry.card is None and self.query is not None:
                entry.fit = compatibility(self.query, model)
            said = (
                f"Loaded: {type(model).__name__} of {counted(model.schema.n_genes, model.schema.noun)}. "
                "In Python it is this hub's .model, for sca.widgets.MappingPanel."
            )
            return " ".join([said, *(readable(note, 500) for note in notes)])

        self._begin("load", entry.key, f"Loading {shown(entry.title)}", read)

    # Sharing

    def edit(self, name: str, title: str | None = None, text: str | None = None) -> None:
        """Change a card's title or text, in the model's folder.

        Raises
        ------
        ValueError
            If there is no such model, it has no card, or the words do not go onto one.
        """
        with self._lock:
            entry = self._named(name)
            if entry.card is None:
                raise ValueError(f"'{shown(name)}' has no card to edit. It is given one: sca.hub.save(model, …).")
            if self._busy and self._work["op"] == "upload":
                raise RuntimeError("A model is being uploaded. Edit the card afterwards.")
            changes = {}
            for what, value, most in (("title", title, LARGEST_TITLE), ("text", text, LARGEST_TEXT)):
                if value is None or value == getattr(entry.card, what):
                    continue
                if len(value) > most:
                    raise ValueError(f"The {what} has {len(value):,} characters; {most:,} are the most.")
                if what == "title" and not value.strip():
                    raise ValueError("A card needs a title.")
                changes[what] = value
            if changes:
                entry.take(_rewritten(self._path(name), changes))
                changes = self._edits[name] = self._edits.get(name, {}) | changes
                where = str(self.folder / name)
                lines = [f"card.{what} = {value!r}" for what, value in changes.items()]
                self._did(("edit", name), f"card = sca.hub.read_card({where!r})", *lines, f"card.save({where!r})")
            self.error = None
            if self.editing.get("key") == entry.key:
                self._choose(entry)
            self._show()

    def _choose(self, entry: LocalEntry) -> None:
        card = entry.card
        words = {"title": card.title, "text": card.text} if card else {"title": entry.name, "text": ""}
        self.editing = {"key": entry.key, "name": entry.name, "has_card": card is not None, **words}

    def upload(
        self,
        name: str,
        creators: Iterable[str],
        *,
        title: str | None = None,
        text: str | None = None,
        file_name: str | None = None,
        access_token: str | Secret | None = None,
    ) -> None:
        """Put a model of the folder into a draft, in the background. It is not public before `publish`.

        If the last draft is of the same model and not public, it is used again.

        Parameters
        ----------
        name
            Of the model's folder.
        creators
            Authors, each as "Last, First".
        title, text
            New ones for its card, which are kept there too; they are also the record's title and description. A model
            without a card is given one as it is uploaded.
        file_name
            As `model_name` in `zenodo.upload_model`; None: the folder's name.
        access_token
            As in `zenodo.create_deposition`.

        Raises
        ------
        ValueError
            If there is no such model, or no author.
        """
        self._check_idle()
        entry = self._named(name)
        creators = [one.strip() for one in creators if one.strip()]
        if not creators:
            raise ValueError("A record needs an author. Write each as 'Last, First'.")
        token = Secret(access_token) if isinstance(access_token, str) else access_token
        if entry.card is not None:
            self.edit(name, title, text)
        site, card, file_name = zenodo.current_site(), entry.card, file_name or name
        title, text = (card.title, card.text) if card else (title or name, text or "")
        about = {
            "title": title,
            "description": html.escape(text).replace("\n", "<br>"),
            "creators": [{"name": one} for one in creators],
        }
        last = self.draft
        again = bool(last) and (last["key"], last["site"]) == (entry.key, site.web) and last["state"] != "public"
        if again and last["file_name"] != file_name:
            raise ValueError(
                f"The draft has the model as '{shown(last['file_name'])}'. Keep that name, or begin another draft."
            )

        def send(cancel: threading.Event) -> str:
            with collected_logs():  # which say what the page says
                if again:
                    identifier = last["id"]
                    zenodo.update_deposition(identifier, token, about)
                else:
                    identifier = zenodo.create_deposition(token, **about)
                draft = {
                    "id": identifier,
                    "link": f"{site.web}/deposit/{identifier}",
                    "key": entry.key,
                    "site": site.web,
                    "title": title,
                    "file_name": file_name,
                    "state": "begun",
                }
                self.draft = draft
                zenodo.upload_model(
                    self._path(name), identifier, token, file_name, overwrite=again, progress=self._progressing(),
                    cancel=cancel,
                )  # fmt: skip
            self.draft = {**draft, "state": "filled"}
            self._did_upload(name, file_name, about, card is not None)
            return "Uploaded into a draft, which is not public yet."

        self._begin("upload", entry.key, f"Uploading {shown(title)}", send)

    def _did_upload(self, name: str, file_name: str, about: dict[str, Any], has_card: bool) -> None:
        where, title, description = str(self.folder / name), repr(about["title"]), '""'
        lines = []
        if has_card:
            lines.append(f"card = sca.hub.read_card({where!r})")
            title, description = "card.title", 'html.escape(card.text).replace("\\n", "<br>")'
        self._did(
            ("upload", name),
            *lines,
            f"draft = zenodo.create_deposition(title={title}, description={description}, creators={about['creators']})",
            f"zenodo.upload_model({where!r}, draft, model_name={file_name!r})",
        )

    def publish(self, title: str, access_token: str | Secret | None = None) -> None:
        """Make the draft public, for ever, in the background.

        Parameters
        ----------
        title, access_token
            As in `zenodo.publish_deposition`, which compares the title with that of the draft as it is now.

        Raises
        ------
        ValueError
            If there is no draft with a model, or it is on another site than is configured.
        """
        token = Secret(access_token) if isinstance(access_token, str) else access_token
        draft = self.draft
        if not draft or draft["state"] != "filled":
            raise ValueError("There is no draft with a model in it that could be published. Upload one first.")
        if draft["site"] != zenodo.current_site().web:
            raise ValueError(
                f"The draft is on {draft['site']}, and sca.hub.zenodo.configure now says "
                f"{zenodo.current_site().web}. Configure it as before, then publish."
            )

        def make_public(cancel: threading.Event) -> str:
            with collected_logs():
                link = zenodo.publish_deposition(draft["id"], token, title=title)
            self.draft = {**draft, "state": "public", "link": link}
            self._did(("publish", draft["id"]), f"zenodo.publish_deposition(draft, title={title!r})")
            return "Published, for ever."

        self._begin("publish", draft["key"], f"Publishing {shown(title)}", make_public)

    def forget_draft(self) -> None:
        """Think no more of the draft, which stays on Zenodo; the next upload begins another one."""
        with self._lock:
            self._check_idle()
            self.draft = {}

    # From the browser

    def _obey(self, _: View, content: Any, buffers: list) -> None:
        with self._lock:
            if not self._busy and isinstance(content, dict):  # what became of the last click has been read
                self._outcome, self.error = None, None
                self._work = {"op": shown(content.get("op")), "key": shown_in_full(content.get("key"))}
        super()._obey(_, content, buffers)
        self._publisher.touch()

    def _click_refresh(self, content: dict, buffers: list) -> None:
        self.refresh()

    def _click_search(self, content: dict, buffers: list) -> None:
        if content.get("more") is True:
            self.more()
        else:
            self._ask(_text(content.get("text"), LONGEST_QUERY), _text(content.get("site"), LONGEST_QUERY), 1)

    def _click_stop_search(self, content: dict, buffers: list) -> None:
        self._searching.set()

    def _click_check(self, content: dict, buffers: list) -> None:
        self.check(_text(content.get("key")))

    def _click_download(self, content: dict, buffers: list) -> None:
        entry = self._entry(content.get("key"))
        names = [file.name for file in entry.record.archives] if isinstance(entry, RemoteEntry) else []
        if content.get("file") not in names:
            raise ValueError("The record has no such file.")
        file = content["file"] if len(names) > 1 else None
        self.download(entry.record.link, file, overwrite=content.get("overwrite") is True)

    def _click_load(self, content: dict, buffers: list) -> None:
        self.load(self._local_key(content))

    def _click_cancel(self, content: dict, buffers: list) -> None:
        self.cancel()

    def _click_choose(self, content: dict, buffers: list) -> None:
        self._choose(self._named(self._local_key(content)))

    def _click_edit(self, content: dict, buffers: list) -> None:
        self.edit(self._local_key(content), _text(content.get("title"), 10**6), _text(content.get("text"), 10**6))

    def _click_upload(self, content: dict, buffers: list) -> None:
        token = _secret(buffers)
        authors = [_text(one, LARGEST_TITLE) for one in content.get("creators", ())][:MOST_AUTHORS]
        words = {name: _text(content[name], 10**6) for name in ("title", "text") if name in content}
        file_name = _text(content.get("file_name", ""), LONGEST_NAME) or None
        name = self._local_key(content)
        self.upload(name, authors, **words, file_name=file_name, access_token=token)

    def _click_publish(self, content: dict, buffers: list) -> None:
        token = _secret(buffers)
        self.publish(_text(content.get("title"), 10**6), token)

    def _click_forget(self, content: dict, buffers: list) -> None:
        self.forget_draft()

    def _local_key(self, content: Mapping[str, Any]) -> str:
        entry = self._entry(content.get("key"))
        if not isinstance(entry, LocalEntry):
            raise ValueError("That is no model of this machine.")
        return entry.name

    # Code and pictures

    def _did(self, key: tuple, *lines: str) -> None:
        with self._lock:
            self._steps.pop(key, None)
            self._steps[key] = list(lines)

    def code(self) -> str:
        """Python that does what was done by clicks; of `query`. Tokens are read from the environment."""
        with self._lock:
            body = [line for lines in self._steps.values() for line in lines]
        text, site = "\n".join(body), zenodo.current_site()
        head = ["import html", ""] if "html.escape" in text else []
        head.append("import scarches_widgets as sca")
        if "zenodo." in text:
            head += ["", "zenodo = sca.hub.zenodo"]
            if site.web == zenodo.ZENODO:
                head.append("zenodo.configure(sandbox=False)")
            elif site.web != zenodo.SANDBOX:
                head.append(f"zenodo.configure(base_url={site.api!r})")
        if "create_deposition" in text:
            head.append(f"# The token is read from the environment variable {site.variable}.")
        return "\n".join([*head, *body]) + "\n"

    def _summary(self) -> str:
        found = f"; {counted(len(self._remote), 'record')} found on Zenodo" if self._remote else ""
        return f"Model hub: {self.facts}{found}."

    def _rows(self) -> list[tuple[str, ...]]:
        """Model, what it is, where, size, checksum, fit: for those who read without a kernel."""
        rows = []
        for entry in self._local.values():
            what = " · ".join(entry.facts) or entry.kind
            digest = f"SHA-256 {entry.card.digest}" if entry.card else ""
            where = str(self.folder / entry.name)
            rows.append((shown(entry.title), what, where, in_bytes(entry.size), digest, _fit(entry)))
        for entry in self._remote.values():
            files = entry.record.archives
            size = ", ".join(in_bytes(file.size) for file in files)
            digest = ", ".join(f"MD5 {file.md5}" for file in files)
            what = " · ".join(entry.facts)
            rows.append((shown(entry.title), what, entry.record.link, size, digest, _fit(entry)))
        return rows

    def _picture(self, format: str) -> bytes:
        from .model_hub_picture import hub_picture

        self._has_looked()
        return hub_picture(self._summary(), [(row[0], row[1], row[3], row[5]) for row in self._rows()], format)

    def _static_bundle(self) -> dict[str, str]:
        self._has_looked()
        return super()._static_bundle()

    def _static_html(self) -> str:
        head = "".join(f"<th>{name}</th>" for name in ("Model", "What it is", "Size", "My cells"))
        body = ""
        for row in self._rows():
            model, what, where, size, digest, fit = (html.escape(readable(value, 300)) for value in row)
            body += f"<tr><td>{model}</td><td>{what}</td><td>{size}</td><td>{fit}</td></tr>"
            body += f'<tr><td colspan="4">{"<br>".join(filter(None, (where, digest)))}</td></tr>'  # long words
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if body else ""
        return f"<p>{html.escape(self._summary())}</p>{table}<pre><code>{html.escape(self.code())}</code></pre>"


class _Worker:
    """A thread that does one thing after another, and ends when there is no more to do."""

    def __init__(self, name: str, tell: Callable[[Exception | None], None]):
        self._name, self._tell = name, tell  # told of each failure, and when there is no more to do
        self._jobs: deque[Callable[[], None]] = deque()
        self._lock = threading.Lock()
        self.is_busy = False

    def do(self, job: Callable[[], None]) -> None:
        with self._lock:
            self._jobs.append(job)
            if not self.is_busy:
                self.is_busy = True
                threading.Thread(target=self._run, name=self._name, daemon=True).start()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._jobs:
                    self.is_busy = False
                    break
                job = self._jobs.popleft()
            try:
                job()
            except Exception as error:  # noqa: BLE001 - shown
                self._tell(error)
        self._tell(None)


def _checked(query: Any) -> Any:
    from anndata import AnnData

    if query is not None and not isinstance(query, AnnData) and not hasattr(query, "mod"):
        raise TypeError(f"ModelHub takes an AnnData and was given a {type(query).__name__}. Read a file first.")
    return query


def _rewritten(path: Path, changes: Mapping[str, str]) -> ModelCard:
    """The card in a folder, with other words on it, written there."""
    try:
        card = read_card(path)
        for what, value in changes.items():
            setattr(card, what, value)
        card.save(path)
    except OSError as error:
        raise RuntimeError(f"The card could not be changed: {shown_in_full(error)}") from error
    return card


def _read(path: Path, kind: str) -> tuple[Model, str]:
    """A model, and the name of the function that reads it."""
    reader = "load"
    if kind != "ours":
        reader = "from_scvi_tools"
        if (path / "attr.pkl").is_file() and not (path / "model.pt").is_file():
            said = read_pickle(path / "attr.pkl")
            if isinstance(said, dict) and "scvi_setup_dict_" not in said:
                reader = "from_scarches"
    return getattr(hub, reader)(path), reader


def _secret(buffers: list) -> Secret | None:
    """The token that came as bytes beside a message, which is made to forget it; None if there is none."""
    text = bytes(buffers[0][: LONGEST_TOKEN + 1]).decode("ascii", "replace").strip() if buffers else ""
    buffers.clear()  # the kernel keeps the last message
    if len(text) > LONGEST_TOKEN:
        raise ValueError("That is too long for a token. Copy it again.")
    return Secret(text) if text else None


def _text(value: Any, longest: int = LONGEST_QUERY * 10) -> str:
    if not isinstance(value, str) or len(value) > longest:
        raise ValueError(f"A text of at most {longest:,} characters is wanted.")
    return value


def _fit(entry: Entry) -> str:
    fit = entry.fit
    return f"{fit.verdict} ({fit.overlap:.0%} of the {fit.noun}s)" if isinstance(fit, Compatibility) else ""


def shown_in_full(error: object) -> str:
    return readable(str(error) or type(error).__name__, 1000)


def in_bytes(size: int) -> str:
    """`940 bytes`, `12.3 MB`."""
    for unit, least in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= least:
            return f"{size / least:,.1f} {unit}"
    return counted(size, "byte")
