"""Contents of a feature store: its clips, the records of finished blocks, and what is damaged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property

from pipeline.collection import paused_collection
from pipeline.errors import PipelineError
from pipeline.store import layout
from pipeline.store.attributes import Attributes
from pipeline.store.object_store import ObjectStore
from pipeline.store.record import DONE, FAILED, BlockRecord, ClipRecord, read_record
from pipeline.store.settings import StoreSettings
from pipeline.store.table import ClipRow, TableRow, read_table

PENDING = "pending"


class StoreContents:
    """Clips and records of a store, without features. Rows are the numbers in `ClipRow.row`.

    damage: problems of the attributes, the table and the records, by key; empty unless opened with `r+`.
    forgotten: blocks with a record that count as pending, because they will be rewritten. The record is kept until
        then, so that a killed repair can be resumed.
    """

    def __init__(self, objects: ObjectStore, attributes: Attributes, damage: Mapping[str, str] = {}) -> None:
        self.objects = objects
        self.attributes = attributes
        self.settings: StoreSettings = attributes.settings
        self.classes: tuple[str, ...] = attributes.classes
        self.block_clips: int = attributes.block_clips
        self.rows: tuple[TableRow, ...] = ()
        self.records: dict[int, BlockRecord] = {}
        self.damage: dict[str, str] = {}
        self.forgotten: set[int] = set()
        self._attribute_damage = dict(damage)
        self._record_of_row: dict[int, ClipRecord] = {}
        self.reload()

    @paused_collection()
    def reload(self) -> None:
        """Read table and records again."""
        self.damage = dict(self._attribute_damage)
        try:
            data = self.objects.get(layout.TABLE_KEY)
            self.rows = read_table(data, self.objects.location, self.classes)
            keys = [layout.record_key(block) for block in sorted({row.row // self.block_clips for row in self.rows})]
        except PipelineError as error:
            self.damage[layout.TABLE_KEY] = str(error)
            self.rows, keys = (), layout.record_keys(self.objects.names(layout.RECORDS_FOLDER))
        self.records = {}
        id_of_row = {row.row: row.clip_id for row in self.rows}
        for key, data in zip(keys, self.objects.get_many(keys), strict=True):
            if data is None or layout.block_of_record(key) in self.forgotten:
                continue
            try:
                record = self._checked(read_record(data, key), key, id_of_row)
                self.records[record.block] = record
            except PipelineError as error:
                self.damage[key] = str(error)
        self._index_records()

    def forget(self, blocks: Iterable[int]) -> None:
        """Treat blocks as pending until `remember`, without writing anything."""
        self.forgotten.update(blocks)
        for block in self.forgotten:
            self.records.pop(block, None)
            self.damage.pop(layout.record_key(block), None)
        self._index_records()

    def remember(self) -> None:
        """Read everything again, including the rewritten records of forgotten blocks."""
        self.forgotten.clear()
        self.reload()

    def _index_records(self) -> None:
        self._record_of_row = {
            record.block * self.block_clips + clip.offset: clip
            for record in self.records.values()
            for clip in record.clips
        }
        vars(self).pop("_listed", None)

    def _checked(self, record: BlockRecord, key: str, id_of_row: Mapping[int, str]) -> BlockRecord:
        if layout.record_key(record.block) != key:
            raise PipelineError(f"{key} of the store is the record of block {record.block}.")
        if not record.belongs_to(self.attributes.fingerprint):
            raise PipelineError(f"{key} of the store was copied from a store with other settings or classes.")
        first = record.block * self.block_clips
        for clip in record.clips:
            if clip.offset >= self.block_clips:
                raise PipelineError(f"{key} of the store has a clip at position {clip.offset} of {self.block_clips}.")
            if self.rows and id_of_row.get(first + clip.offset) != clip.clip_id:
                raise PipelineError(
                    f"{key} of the store names clip '{clip.clip_id}', but the table has another clip in that row."
                )
        return record

    def clear_attribute_damage(self) -> None:
        """Drop the damage of the attributes after both copies were rewritten."""
        for key in self._attribute_damage:
            self.damage.pop(key, None)
        self._attribute_damage.clear()

    def damage_text(self) -> str:
        """Return a sentence with the damaged objects and how to repair them."""
        key, what = next(iter(self.damage.items()))
        if not layout.record_keys([key.rpartition("/")[2]]):
            return what
        count = len(self.damage) - 1
        return (
            f"{key} {f'and {count} more records ' if count else ''}of the store {self.objects.location} "
            f"{'are' if count else 'is'} damaged. Run `pipeline store verify --repair`, or `pipeline extract` again."
        )

    @property
    def num_blocks(self) -> int:
        """Number of blocks that the rows of the table need."""
        return max((row.row // self.block_clips for row in self.rows), default=-1) + 1

    @property
    def num_clips(self) -> int:
        """Number of clips of the manifest, including failed and pending ones."""
        return sum(row.listed for row in self.rows)

    @property
    def num_failed(self) -> int:
        """Number of clips of the manifest that failed."""
        return sum(clip.status == FAILED for clip in self._listed)

    @property
    def num_pending(self) -> int:
        """Number of clips of the manifest that are not extracted yet."""
        return sum(clip.status == PENDING for clip in self._listed)

    @property
    def views(self) -> tuple[str, ...]:
        """Views that at least one block has: `test` first, then the training draws by number."""
        found = {view for record in self.records.values() for view in record.views}
        return tuple(sorted(found, key=lambda view: (view != layout.TEST_VIEW, len(view), view)))

    def array_views(self) -> tuple[str, ...]:
        """Return the views that have arrays, with or without a finished block."""
        return tuple(sorted(filter(layout.is_view, self.objects.names("views"))))

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, in the order of their first clip."""
        return tuple(dict.fromkeys(row.split for row in self.rows if row.listed))

    def table(self) -> tuple[ClipRow, ...]:
        """Return all clips of the manifest in its order: done, failed and pending."""
        return self._listed

    def clips(self, split: str | None = None, view: str = layout.TEST_VIEW) -> tuple[ClipRow, ...]:
        """Return the finished clips of a split (None: all) that have a view, in the order of the manifest.

        Raises:
            PipelineError: no clip of the split has the view.
        """
        found = tuple(
            clip for clip in self._listed if clip.status == DONE and split in (None, clip.split) and view in clip.views
        )
        if not found:
            raise PipelineError(
                f"The store {self.objects.location} has no clip of split '{split}' with the view '{view}'. "
                f"Splits: {', '.join(self.splits)}; views: {', '.join(self.views)}."
            )
        return found

    @cached_property
    @paused_collection()
    def _listed(self) -> tuple[ClipRow, ...]:
        index_of = {"": -1, **{label: index for index, label in enumerate(self.classes)}}
        return tuple(self._clip_row(row, index_of) for row in self.rows if row.listed)

    def _clip_row(self, row: TableRow, index_of: dict[str, int]) -> ClipRow:
        block = row.row // self.block_clips
        known = (row.row, block, row.clip_id, row.path, row.label, index_of[row.label], row.split)
        found = self._record_of_row.get(row.row)
        if found is None:
            return ClipRow(*known, PENDING, "", "", 0, "", 0, 0, 0, (), row.group)
        what = (found.status, found.kind, found.reason, found.size, found.digest)
        views = self.records[block].views_of(found.offset)
        return ClipRow(*known, *what, found.num_frames, found.height, found.width, views, row.group)
