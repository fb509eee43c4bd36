"""What the ffprobe program says of a clip, as one dictionary that reads well in a comparison."""

import json
import subprocess
from fractions import Fraction

WRITTEN_BY_MUXERS = {
    "encoder", "software", "major_brand", "minor_version", "compatible_brands", "vendor_id", "handler_name", "duration",
}  # fmt: skip
"""Tags that speak of the program or of the file, not of the film."""


def described(path):
    """All that has to survive. Times are exact, in seconds; the video is the first one that is no cover art."""
    found = ffprobe(path)
    streams, entries = found["streams"], found["packets_and_frames"]
    video = next(s for s in streams if s["codec_type"] == "video" and not s["disposition"]["attached_pic"])
    others = [other for other in streams if other is not video and other["codec_type"] != "data"]
    times = [
        _seconds(entry.get("best_effort_timestamp"), video)
        for entry in entries
        if entry["type"] == "frame" and entry["stream_index"] == video["index"]
    ]
    return {
        "frames": len(times),
        "times": times,
        "ends": _end(video),
        "duration": float(found["format"].get("duration", 0)),
        "size": (video["width"], video["height"]),
        "colour": [video.get(f"color_{name}") for name in ("range", "space", "primaries", "transfer")],
        "bits": 12 if "12" in video["pix_fmt"] else 10 if "10" in video["pix_fmt"] else 8,
        "pixel shape": video.get("sample_aspect_ratio", "1:1"),
        "rotation": [side["rotation"] for side in video.get("side_data_list", ()) if "rotation" in side],
        "fields": video.get("field_order", "progressive"),
        "tags": _tags(found["format"]),
        "video": _about(video),
        "others": [_about(other) for other in others],
        "packets": [_packets(entries, other) for other in others],
        "packet times": [_packet_times(entries, other) for other in others],
        "chapters": [
            (float(chapter["start_time"]), float(chapter["end_time"]), chapter["tags"]["title"])
            for chapter in found["chapters"]
        ],
    }


def begins(path):
    """Time of the first packet of all, in seconds."""
    found = ffprobe(path)
    return min(_seconds(stream["start_pts"], stream) for stream in found["streams"] if "start_pts" in stream)


def ffprobe(path):
    """Everything, with hashes of all packets."""
    show = "-show_streams -show_format -show_chapters -show_packets -show_frames -show_data_hash md5"
    command = ["ffprobe", "-v", "quiet", "-print_format", "json", *show.split(), str(path)]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)


def _seconds(time, stream):
    return None if time is None else int(time) * Fraction(stream["time_base"])


def _end(stream):
    """End of a stream in seconds, where the container states it."""
    if "duration" in stream:
        return float(stream.get("start_time", 0)) + float(stream["duration"])
    if "DURATION" in stream.get("tags", {}):
        hours, minutes, seconds = stream["tags"]["DURATION"].split(":")
        return (int(hours) * 60 + int(minutes)) * 60 + float(seconds)
    return None


def _tags(thing):
    """Those that say something, by lower case name: Matroska writes some of them in capitals."""
    tags = {key.lower(): value for key, value in thing.get("tags", {}).items() if value != "und"}
    return {key: value for key, value in tags.items() if key not in WRITTEN_BY_MUXERS}


def _about(stream):
    """What a stream is. "default" is left out: MP4 says it of every first stream."""
    about = {
        "type": stream["codec_type"],
        "codec": stream.get("codec_name"),
        "tags": _tags(stream),
        "disposition": [name for name, on in stream["disposition"].items() if on and name != "default"],
    }
    if stream["codec_type"] == "video" and not stream["disposition"]["attached_pic"]:
        del about["codec"]
    if stream["codec_type"] == "attachment":
        about["bytes"] = stream["extradata_hash"]
    return about


def _packets(entries, stream):
    """Hashes of the bytes of all packets of a stream."""
    return [entry["data_hash"] for entry in entries if _is_of(entry, stream)]


def _packet_times(entries, stream):
    return [_seconds(entry.get("pts"), stream) for entry in entries if _is_of(entry, stream)]


def _is_of(entry, stream):
    return entry["type"] == "packet" and entry["stream_index"] == stream["index"]
