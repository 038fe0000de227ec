import bz2
import gzip
import json
import random
import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import pytest
import zstandard

from data_prep.text.frames import cuts
from data_prep.text.input_ranges import InputRange
from data_prep.text.readers import ranges_of_file
from pipeline.common.errors import UserError
from tests.data_prep.prose import made_up_texts
from tests.data_prep.text.reading import config, paragraphs, random_lines, read, texts_of, write

BGZF_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
"""The empty block at the end of a file, as the SAM specification spells it (4.1.2)."""


def zst(texts: list[bytes], draw: random.Random) -> bytes:
    """Frames with and without their size and checksum, of raw and repeated blocks too, and frames to skip between them."""
    content = b""
    for text in texts:
        level, sized, checked = draw.choice([1, 19]), draw.random() < 0.5, draw.random() < 0.5
        content += zstandard.ZstdCompressor(level, write_content_size=sized, write_checksum=checked).compress(text)
        content += draw.choice([b"", struct.pack("<II", 0x184D2A53, 5) + b"12345"])
    return content


def pzstd(texts: list[bytes], draw: random.Random) -> bytes:
    frames = [zstandard.compress(text) for text in texts]
    return b"".join(struct.pack("<III", 0x184D2A50, 4, len(frame)) + frame for frame in frames)


def seekable(texts: list[bytes], draw: random.Random) -> bytes:
    frames = [zstandard.compress(text) for text in texts]
    entries = b"".join(struct.pack("<III", len(frame), len(text), 0) for frame, text in zip(frames, texts, strict=True))
    foot = struct.pack("<IBI", len(frames), 0x80, 0x8F92EAB1)
    return b"".join(frames) + struct.pack("<II", 0x184D2A5E, len(entries) + len(foot)) + entries + foot


def bgzf(texts: list[bytes], draw: random.Random) -> bytes:
    content = b""
    for text in texts:
        deflated = zlib.compress(text, wbits=-15)
        head = b"\x1f\x8b\x08\x04" + bytes(6) + struct.pack("<HccHH", 6, b"B", b"C", 2, len(deflated) + 25)
        content += head + deflated + struct.pack("<II", zlib.crc32(text), len(text))
    return content + BGZF_END


def pbzip2(texts: list[bytes], draw: random.Random) -> bytes:
    return b"".join(map(bz2.compress, texts))


PACKED = {"zst": zst, "pzstd": pzstd, "seekable": seekable, "bgzf": bgzf, "pbzip2": pbzip2}
ENDINGS = {"bgzf": ".gz", "pbzip2": ".bz2"}


def split(content: bytes, draw: random.Random) -> list[bytes]:
    """The content in parts that end anywhere, some of them empty."""
    places = sorted(draw.randrange(len(content) + 1) for _ in range(draw.randrange(1, 9)))
    return [content[start:stop] for start, stop in zip([0, *places], [*places, len(content)], strict=True)]


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("chunk", [3, 1 << 14])
def test_ranges_of_frames_give_the_documents_of_the_whole_whatever_their_size(tmp_path, packed, chunk, monkeypatch):
    monkeypatch.setattr("data_prep.text.lines._COMPRESSED_CHUNK", chunk)
    monkeypatch.setattr("data_prep.text.lines._BUFFER", 16)
    draw = random.Random(f"{packed} {chunk}")
    ranges = 0
    for _ in range(40):
        content = random_lines(draw)
        texts = [text[: draw.randrange(1, 60)] for text in made_up_texts(12, draw.randrange(1 << 30))]
        lines = draw.choice([b"\n", b"\n\n"]).join(json.dumps({"text": text}).encode() for text in texts)
        ending = ENDINGS.get(packed, ".zst")
        txt = write(tmp_path / f"a.txt{ending}", PACKED[packed](split(content, draw), draw))
        jsonl = write(tmp_path / f"a.jsonl{ending}", PACKED[packed](split(lines, draw), draw))
        for step in (1, 200, 1 << 20):
            assert read(txt, step * 4) == paragraphs(content), (step, content)
            assert read(jsonl, step * 4) == texts
            ranges += len(ranges_of_file(txt, config(), step * 4))
    assert ranges > 40 * 5


def test_a_file_of_one_frame_or_of_no_more_than_a_range_stays_one_range(tmp_path):
    text = b"a line\n" * 1000
    one = {".zst": zstandard.compress(text), ".gz": gzip.compress(text), ".bz2": bz2.compress(text)}
    for ending, content in one.items():
        for name, times, step in (("one", 1, 4), ("a", 3, 1 << 20)):
            path = write(tmp_path / f"{name}.txt{ending}", content * times)
            (whole,) = ranges_of_file(path, config(), step)
            assert (whole.start, whole.stop) == (0, len(content) * times)
    # Where the members of gzip begin is known only by decompressing them.
    assert len(ranges_of_file(tmp_path / "a.txt.gz", config(), 4)) == 1
    assert len(ranges_of_file(tmp_path / "a.txt.zst", config(), 4)) == 3


@pytest.mark.parametrize("packed", ["pzstd", "seekable"])
def test_frames_are_found_in_few_reads_where_the_file_tells_their_lengths(packed):
    texts = [random.Random(number).randbytes(1 << 20) for number in range(8)]
    content = PACKED[packed](texts, random.Random(0))
    reads = []

    def read_at(place: int, count: int) -> bytes:
        reads.append(count)
        return content[place : place + count]

    found = cuts(read_at, len(content), ".zst", 1, walks=False)
    assert found == cuts(read_at, len(content), ".zst", 1, walks=True)
    assert len(found) >= 8
    assert len(reads) < 70
    assert sum(reads) < 2000


def test_a_damaged_chain_of_frames_is_one_range_and_is_refused_when_it_is_read(tmp_path):
    content = zst([b"a\n\n" * 900, b"b\n\n" * 900], random.Random(0))
    path = write(tmp_path / "a.txt.zst", content[:-9])
    (input_range,) = ranges_of_file(path, config(), 4)
    with pytest.raises(UserError, match=r"a\.txt\.zst: the compressed file breaks off"):
        texts_of(input_range)


def test_frames_that_no_longer_begin_where_they_did_are_refused(tmp_path):
    path = write(tmp_path / "a.txt.zst", zstandard.compress(b"a\n" * 99) * 2)
    first, _ = ranges_of_file(path, config(), 4)
    moved = InputRange(path=str(path), start=0, stop=first.stop - 1, size=4)
    with pytest.raises(UserError, match=f"no frame begins at byte {moved.stop}, where one began when the plan was made"):
        texts_of(moved)


@pytest.mark.skipif(shutil.which("pzstd") is None, reason="pzstd is not installed")
def test_the_frames_of_pzstd_itself_are_found(tmp_path):
    texts = [random.Random(number).randbytes(300_000).hex() for number in range(40)]
    path = tmp_path / "a.txt"
    path.write_text("\n\n".join(texts), encoding="utf-8")
    subprocess.run(["pzstd", "-q", "-p", "4", "-1", str(path)], check=True)
    packed = Path(f"{path}.zst")
    ranges = ranges_of_file(packed, config(), 4 << 20)
    assert len(ranges) > 2
    assert [text.strip() for text in read(packed, 4 << 20)] == texts
