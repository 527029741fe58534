"""Open a video file with PyAV and decode its packets, with an error for each kind of damage.

There is no frame threading: it can hang if decoding stops early, and takes the core of another worker.
"""

from __future__ import annotations

import errno
import itertools
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from pipeline.errors import ClipError
from pipeline.video.containers import missing_end
from pipeline.video.limits import ClipLimits, Stopwatch
from pipeline.video.orientation import Matrix, Orientation, as_shown, shown_size
from pipeline.video.packet_checks import PacketChecks
from pipeline.video.reader import Frame, size_change
from pipeline.video.transport_stream import file_without_repetitions

# Only formats that are detected by content and do not refer to other files: a playlist would read files outside the
# clip, a text file would be rendered as a terminal, `frame%d.jpg` would be read as a sequence.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,apng,mpeg,mpegts,mpegvideo,m4v,h264,hevc,vvc,ivf,obu,flv,asf,ogg,"
    "mxf,nut,mjpeg,yuv4mpegpipe,dv,rm,wtv,webp_pipe,bmp_pipe,tiff_pipe,mp3,wav,flac,aac,ac3"
)
# Raised by PyAV for damaged input, in addition to FFmpeg's errors.
DECODING_ERRORS = (av.FFmpegError, ValueError, OverflowError)

Shown = tuple[VideoFrame, Matrix | None]


class VideoDecoder:
    """The first video stream of a file, with its decoder.

    Raises:
        ClipError: the file has no video, or is truncated.
    """

    def __init__(self, path: Path, container_format: str | None, limits: ClipLimits) -> None:
        self._path, self._format = path, container_format
        self._limits, self._watch = limits, Stopwatch(str(path), limits)
        self._reformatter = VideoReformatter()
        missing = missing_end(path)
        if missing is not None:
            raise ClipError("truncated", f"{path} is truncated: {missing}. Copy or download it again.")
        self._container, self._stream = self._open()

    @property
    def frames_per_second(self) -> float | None:
        """Frame rate in the file's header, or None. It does not affect which frames are read."""
        rate = self._stream.average_rate or self._stream.base_rate
        return float(rate) if rate else None

    def _open(self) -> tuple[InputContainer, VideoStream]:
        source = file_without_repetitions(self._path) or f"file:{self._path}"
        options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
        try:
            container = av.open(
                source,
                mode="r",
                format=self._format,
                options=options,
                metadata_errors="ignore",
                timeout=self._watch.max_seconds if math.isfinite(self._watch.max_seconds) else None,
            )
        except av.ExitError as error:  # the timeout's exception
            raise self._watch.overrun() from error
        except DECODING_ERRORS as error:
            raise ClipError(
                "unreadable", f"{self._path} is not a video file that can be read ({_reason(error)})."
            ) from cause_of(error, self._path)
        try:
            # The cover of a song is a video stream too, with a still image.
            cover = Disposition.attached_pic
            stream = next((s for s in container.streams.video if not s.disposition & cover), None)
            if stream is None:
                raise ClipError("no-video", f"{self._path} has no video stream, only other data such as sound.")
            if stream.codec_context is None:
                raise ClipError("unreadable", f"{self._path} is encoded with a codec that is not known here.")
            stream.codec_context.thread_type, stream.codec_context.thread_count = "NONE", 1
            self._limits.check_pixels(str(self._path), stream.codec_context.height, stream.codec_context.width)
            self._checks = PacketChecks(stream)
            stream.codec_context.options = {
                "err_detect": self._checks.error_detection,
                "max_pixels": str(self._limits.max_pixels),
            }
        except BaseException:
            container.close()
            raise
        return container, stream

    def _demuxed(self) -> Iterator[Packet[VideoStream]]:
        try:
            for packet in self._container.demux(self._stream):
                if packet.is_corrupt:
                    raise ClipError(
                        "truncated",
                        f"{self._path} is truncated, damaged or joined from pieces: a part of a frame is missing. Copy "
                        "or download it again; encode joined pieces again.",
                    )
                if packet.size:
                    lost = self._checks.lost_before(packet)
                    if lost is not None:
                        raise self._lost(lost)
                    decodable = self._checks.decodable(packet)
                    if decodable is not None:
                        yield decodable
            lost = self._checks.lost_at_end()
            if lost is not None:
                raise self._lost(lost)
        except av.ExitError as error:
            raise self._watch.overrun() from error
        except DECODING_ERRORS as error:
            raise self._corrupt(error) from cause_of(error, self._path)

    def _shown(self, packets: Iterable[Packet[VideoStream]] | None = None, since: int | None = None) -> Iterator[Shown]:
        """Yield the decoded frames with their orientations, in display order.

        packets: packets that were demuxed already. since: display time of the first frame; earlier ones, which may
            refer to frames before the key frame that was sought, are left out.
        """
        first_size: tuple[int, int] | None = None
        orientation = Orientation()
        for packet in itertools.chain(self._demuxed() if packets is None else packets, [None]):
            try:
                with self._watch.running():
                    frames = self._stream.codec_context.decode(packet)
            except DECODING_ERRORS as error:
                raise self._corrupt(error) from cause_of(error, self._path)
            damage = None if packet is None else self._checks.damage_in(packet, frames, self._limits)
            if damage is not None:
                raise self._corrupt(damage)
            for frame in frames:
                if since is not None and (frame.pts is None or frame.pts < since):
                    continue
                if frame.is_corrupt:
                    raise self._corrupt("a frame is not whole")
                matrix = orientation.of(frame)
                size = shown_size(frame, matrix)
                first_size = first_size or size
                if size != first_size:
                    raise size_change(str(self._path), "a later one", size, first_size)
                yield frame, matrix

    def _as_rgb(self, frame: VideoFrame, matrix: Matrix | None) -> Frame:
        try:
            pixels = self._reformatter.reformat(frame, format="rgb24").to_ndarray().view(np.uint8)
        except DECODING_ERRORS as error:
            raise self._corrupt(error) from cause_of(error, self._path)
        return as_shown(pixels, matrix)

    def _lost(self, what: str) -> ClipError:
        return self._corrupt(f"frames are missing ({what})")

    def _corrupt(self, reason: BaseException | str) -> ClipError:
        words = reason if isinstance(reason, str) else _reason(reason)
        if self._checks.starts_in_open_group:
            return ClipError(
                "corrupt",
                f"{self._path} is damaged, or cut at a place where its decoder cannot start: {words}. Encode it again "
                "from the file that it was cut from.",
            )
        return ClipError("corrupt", f"{self._path} is damaged: {words}. Copy or download it again.")


def cause_of(error: BaseException, path: Path) -> BaseException | None:
    """Return the cause of an error; None if FFmpeg reports damage as a memory shortage or a disk error.

    A damaged header may request more memory than exists; `clip_errors` detects a real shortage. Reading the whole
    file shows whether the disk fails.
    """
    number = getattr(error, "errno", None)
    if number in (errno.EIO, errno.EAGAIN):
        try:
            with open(path, "rb") as file:
                while file.read(1 << 24):
                    pass
        except OSError as failing:
            return failing
    return None if number in (errno.ENOMEM, errno.EIO, errno.EAGAIN) else error


def _reason(error: BaseException) -> str:
    """Return FFmpeg's message without error number and path."""
    number = getattr(error, "errno", None)
    if number == errno.ENOMEM:
        return "a header in it asks for more memory than there is"
    if number in (errno.EIO, errno.EAGAIN):
        return "data that its headers promise are not there"
    return getattr(error, "strerror", None) or str(error)
