"""Clips of every kind that is met in practice, made by the ffmpeg program: small frames, a second or less.

`CLIPS` says how each file is made: one line of ffmpeg arguments a step, run in the folder of the clips. The last word
of a line is the file that it makes; a step may read what a step before made.
"""

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

needs_programs = pytest.mark.skipif(
    not (shutil.which("ffmpeg") and shutil.which("ffprobe")), reason="the ffmpeg and ffprobe programs are the oracle"
)

BUNNY = Path(__file__).parents[1] / "data" / "bigbuckbunny.mp4"
SHARED = Path(__file__).parents[3] / "shared" / "data" / "clips"

PICTURE = "-f lavfi -i testsrc2=size=64x48:rate=25:duration=0.96"
SOUND = "-f lavfi -i sine=sample_rate=48000:duration=1"
BT709 = "-color_range tv -colorspace bt709 -color_primaries bt709 -color_trc bt709"
X264 = (
    f"{BT709} -c:v libx264 -preset veryfast -pix_fmt yuv420p -threads 1 "
    "-x264-params keyint=8:min-keyint=2:bframes=2:scenecut=0"
)
X265 = f"{BT709} -c:v libx265 -preset ultrafast -x265-params log-level=0:pools=1:keyint=8"
VP9 = f"{BT709} -c:v libvpx-vp9 -cpu-used 8 -g 8 -auto-alt-ref 1 -lag-in-frames 8"
BT2020 = "-colorspace bt2020nc -color_primaries bt2020"
MPEG2 = f"{BT709} -c:v mpeg2video -bf 2 -g 8"
FIELDS = "-vf interlace=lowpass=off -flags +ildct+ilme"


def _picture(rate="25", size="64x48", frames=24):
    return f"-f lavfi -i testsrc2=size={size}:rate={rate} -frames:v {frames}"


VFR = f"{_picture(frames=18)} -vf 'select=not(mod(n\\,3))+lt(n\\,9)' -vsync vfr"

CLIPS = {
    # codecs and containers
    "h264.mp4": f"{PICTURE} {SOUND} {X264} -c:a aac h264.mp4",
    "h264.mov": f"{PICTURE} {SOUND} {X264} -c:a pcm_s16le h264.mov",
    "h264.mkv": f"{PICTURE} {SOUND} {X264} -c:a libopus h264.mkv",
    "h264.flv": f"{PICTURE} {SOUND} {X264} -c:a aac h264.flv",
    "h264.ts": f"{PICTURE} {SOUND} {X264} -c:a ac3 h264.ts",
    "aac.ts": f"{PICTURE} {SOUND} {X264} -c:a aac aac.ts",
    "fragmented.mp4": f"{PICTURE} {SOUND} {X264} -c:a aac -movflags frag_keyframe+empty_moov fragmented.mp4",
    "hevc.mp4": f"{PICTURE} {X265}:bframes=2 -tag:v hvc1 hevc.mp4",
    "hevc.mkv": f"{PICTURE} {X265}:open-gop=1:bframes=3 hevc.mkv",
    "hevc.ts": f"{PICTURE} {X265}:open-gop=1:bframes=3 hevc.ts",
    "av1.mp4": f"{_picture(size='64x64')} -c:v libsvtav1 -preset 12 -g 8 av1.mp4",
    "av1.mkv": f"{PICTURE} -c:v libaom-av1 -cpu-used 8 -g 8 -lag-in-frames 10 -crf 40 av1.mkv",
    "vp9.webm": f"{PICTURE} {SOUND} {VP9} -c:a libopus vp9.webm",
    "vp9.mp4": f"{PICTURE} {VP9} vp9.mp4",
    "vp8.webm": f"{PICTURE} {SOUND} -c:v libvpx -cpu-used 8 -g 8 -auto-alt-ref 1 -c:a libvorbis vp8.webm",
    "mpeg2.ts": f"{PICTURE} {SOUND} {MPEG2} -c:a mp2 mpeg2.ts",
    "mpeg2.mpg": f"{PICTURE} {SOUND} {MPEG2} -c:a mp2 mpeg2.mpg",
    "mpeg1.mpg": f"{PICTURE} {SOUND} -c:v mpeg1video -bf 2 -g 8 -c:a mp2 mpeg1.mpg",
    "mpeg4.mp4": f"{PICTURE} {SOUND} -c:v mpeg4 -bf 2 -g 8 -c:a aac mpeg4.mp4",
    "mpeg4.avi": f"{PICTURE} {SOUND} -c:v mpeg4 -g 8 -c:a libmp3lame mpeg4.avi",
    "mpeg4_bframes.avi": f"{PICTURE} {SOUND} -c:v mpeg4 -bf 2 -g 8 -c:a libmp3lame mpeg4_bframes.avi",
    "xvid.avi": f"{PICTURE} -c:v libxvid -bf 2 -g 8 xvid.avi",
    "h264_bframes.avi": f"{PICTURE} {SOUND} {X264} -c:a libmp3lame h264_bframes.avi",
    "mjpeg.avi": f"{PICTURE} {SOUND} -c:v mjpeg -pix_fmt yuvj420p -c:a pcm_s16le mjpeg.avi",
    "mjpeg.mov": f"{PICTURE} -c:v mjpeg -pix_fmt yuvj422p mjpeg.mov",
    "ffv1.mkv": f"{PICTURE} -c:v ffv1 -g 5 ffv1.mkv",
    "rgb.mkv": f"{PICTURE} -c:v libx264rgb -preset ultrafast -g 8 rgb.mkv",
    "theora.ogv": f"{PICTURE} {SOUND} -c:v libtheora -g 8 -c:a libvorbis theora.ogv",
    "raw.h264": f"{PICTURE} {X264} raw.h264",
    "raw_no_bframes.h264": f"{PICTURE} {X264}:bframes=0 raw_no_bframes.h264",
    "raw.hevc": f"{PICTURE} {X265}:bframes=2 raw.hevc",
    "raw.m2v": f"{PICTURE} {MPEG2} raw.m2v",
    "pictures.y4m": f"{_picture(frames=12)} -pix_fmt yuv420p pictures.y4m",
    # rates and times
    "film.mp4": f"{_picture('24000/1001')} {X264} film.mp4",
    "film.mkv": f"{_picture('24000/1001')} {X264} film.mkv",
    "ntsc.mp4": f"{_picture('30000/1001')} {X264} ntsc.mp4",
    "pal50.mkv": f"{_picture('50')} {X264} pal50.mkv",
    "vfr.mp4": f"{VFR} {X264} vfr.mp4",
    "vfr.mkv": f"{VFR} {X264} vfr.mkv",
    "long_last.mp4": f"{_picture(frames=12)} -vf 'setpts=PTS+gte(N\\,11)*3/TB' -vsync vfr {X264} long_last.mp4",
    "dropped.avi": f"{VFR} -c:v mpeg4 -g 8 dropped.avi",
    "open_gop.mp4": f"{PICTURE} {X264}:open-gop=1 open_gop.mp4",
    "open_gop.ts": f"{PICTURE} {X264}:open-gop=1 open_gop.ts",
    "pyramid.mkv": f"{PICTURE} {X264}:open-gop=1:bframes=5:b-pyramid=normal:keyint=12 pyramid.mkv",
    "intra_refresh.mp4": f"{PICTURE} {X264}:intra-refresh=1:bframes=0 intra_refresh.mp4",
    "intra_refresh.ts": f"{PICTURE} {X264}:intra-refresh=1:bframes=0 intra_refresh.ts",
    "one_gop.mp4": f"{PICTURE} {X264}:keyint=1000 one_gop.mp4",
    "edit_list.mp4": f"{PICTURE} {SOUND} {X264} -c:a aac e.mp4\n-ss 0.41 -i e.mp4 -c copy edit_list.mp4",
    "negative.mp4": (
        f"{PICTURE} {SOUND} {X264} -c:a aac n.mp4\n"
        "-itsoffset -0.2 -i n.mp4 -i n.mp4 -map 0:v -map 1:a -c copy -copyts -avoid_negative_ts disabled negative.mp4"
    ),
    "late_5s.mp4": f"{PICTURE} {SOUND} {X264} -c:a aac -output_ts_offset 5 late_5s.mp4",
    "late_5s.mkv": f"{PICTURE} {SOUND} {X264} -c:a aac -output_ts_offset 5 late_5s.mkv",
    "clock_wraps.ts": f"{PICTURE} {SOUND} {X264} -c:a mp2 -output_ts_offset 95441.9 clock_wraps.ts",
    "late_picture.mp4": f"-itsoffset 0.37 {PICTURE} {SOUND} {X264} -c:a aac -vsync passthrough late_picture.mp4",
    "late_picture.mkv": f"-itsoffset 0.37 {PICTURE} {SOUND} {X264} -c:a aac -vsync passthrough late_picture.mkv",
    "late_picture.ts": f"-itsoffset 0.37 {PICTURE} {SOUND} {X264} -c:a mp2 -vsync passthrough late_picture.ts",
    "late_sound.mp4": f"{PICTURE} -itsoffset 0.37 {SOUND} {X264} -c:a aac late_sound.mp4",
    "late_sound.mkv": f"{PICTURE} -itsoffset 0.37 {SOUND} {X264} -c:a aac late_sound.mkv",
    "one_frame.mp4": f"{_picture(frames=1)} {X264} one_frame.mp4",
    "one_frame.mkv": f"{PICTURE} {SOUND} {X264} -c:a aac -frames:v 1 one_frame.mkv",
    "two_frames.mp4": f"{_picture(frames=2)} {X264} two_frames.mp4",
    # shapes
    "sizes_of_no_block.mp4": f"{_picture(size='62x46')} {X264} sizes_of_no_block.mp4",
    "sizes_of_no_block.mkv": f"{_picture(size='62x46')} {X265} sizes_of_no_block.mkv",
    "odd.mp4": f"{_picture(size='63x47', frames=12)} {X264} -pix_fmt yuv444p odd.mp4",
    "odd.webm": f"{_picture(size='63x47', frames=12)} {VP9} odd.webm",
    "one_pixel.mkv": f"{_picture(frames=9)} -vf format=yuv444p,crop=1:1 -c:v ffv1 one_pixel.mkv",
    "eight_k.mkv": f"{_picture(size='7680x4320', frames=1)} -c:v mjpeg -pix_fmt yuvj420p eight_k.mkv",
    "wide.mp4": f"{_picture(size='2048x16', frames=9)} {X264} wide.mp4",
    "anamorphic.mp4": f"{PICTURE} -vf setsar=64/45 {X264} anamorphic.mp4",
    "anamorphic.mkv": f"{PICTURE} -vf setsar=64/45 {X264} anamorphic.mkv",
    "anamorphic.ts": f"{PICTURE} -vf setsar=64/45 {MPEG2} anamorphic.ts",
    "turned_90.mp4": f"{PICTURE} {X264} t0.mp4\n-i t0.mp4 -c copy -metadata:s:v rotate=90 turned_90.mp4",
    "turned_180.mov": f"{PICTURE} {X264} t1.mp4\n-i t1.mp4 -c copy -metadata:s:v rotate=180 turned_180.mov",
    "turned_270.mp4": f"{PICTURE} {X264} t2.mp4\n-i t2.mp4 -c copy -metadata:s:v rotate=270 turned_270.mp4",
    "fields.mpg": f"{_picture('50')} {FIELDS} {MPEG2} fields.mpg",
    "fields.ts": f"{_picture('50', frames=32)} -vf interlace=lowpass=off {X264}:tff=1 fields.ts",
    "fields.mkv": f"{_picture('50', frames=32)} -vf interlace=lowpass=off:scan=bff {X264}:bff=1 fields.mkv",
    # everything else that a file carries
    "two_languages.mkv": (
        f"{PICTURE} {SOUND} {SOUND} {X264} -map 0 -map 1 -map 2 -c:a libopus -metadata:s:a:0 language=eng "
        "-metadata:s:a:1 language=deu -metadata:s:a:1 title=Kommentar -disposition:a:0 default "
        "-disposition:a:1 comment two_languages.mkv"
    ),
    "two_languages.mp4": (
        f"{PICTURE} {SOUND} {SOUND} {X264} -map 0 -map 1 -map 2 -c:a aac -metadata:s:a:0 language=eng "
        "-metadata:s:a:1 language=deu -metadata title=Odd -metadata:s:v language=fra two_languages.mp4"
    ),
    "srt.mkv": f"{PICTURE} -i titles.srt {X264} -c:s srt -metadata:s:s language=eng srt.mkv",
    "ass.mkv": f"{PICTURE} -i titles.srt {X264} -c:s ass ass.mkv",
    "mov_text.mp4": (
        f"{PICTURE} {SOUND} -i titles.srt {X264} -c:a aac -c:s mov_text -metadata:s:s language=eng mov_text.mp4"
    ),
    "chapters.mp4": f"{PICTURE} -i chapters.txt -map_metadata 1 {X264} chapters.mp4",
    "chapters.mkv": f"{PICTURE} -i chapters.txt -map_metadata 1 {X264} chapters.mkv",
    "font.mkv": f"{PICTURE} {X264} -attach font.ttf -metadata:s:t mimetype=font/ttf font.mkv",
    "cover.mp4": (
        f"{PICTURE} {SOUND} -i cover.png -map 0 -map 1 -map 2 {X264} "
        "-c:v:1 copy -disposition:v:1 attached_pic cover.mp4"
    ),
    "cover.mkv": f"{PICTURE} {SOUND} {X264} -attach cover.png -metadata:s:t mimetype=image/png cover.mkv",
    # colours
    "bt601.mp4": f"{PICTURE} {X264} -colorspace smpte170m -color_primaries smpte170m -color_trc smpte170m bt601.mp4",
    "bt709.mkv": f"{PICTURE} {X264} -colorspace bt709 -color_primaries bt709 -color_trc bt709 bt709.mkv",
    "full_range.mp4": f"{PICTURE} {X264} -pix_fmt yuvj420p -colorspace bt709 -color_range pc full_range.mp4",
    "ten_bits.mp4": f"{PICTURE} {X265} -pix_fmt yuv420p10le ten_bits.mp4",
    "ten_bits_422.mov": f"{PICTURE} {BT709} -c:v prores_ks -pix_fmt yuv422p10le ten_bits_422.mov",
    "twelve_bits_444.mkv": f"{PICTURE} {BT709} -c:v ffv1 -pix_fmt yuv444p12le twelve_bits_444.mkv",
    "pq.mp4": f"{PICTURE} {X265} -pix_fmt yuv420p10le {BT2020} -color_trc smpte2084 pq.mp4",
    "hlg.mkv": f"{PICTURE} {X265} -pix_fmt yuv420p10le {BT2020} -color_trc arib-std-b67 hlg.mkv",
    "yuv444.mp4": f"{PICTURE} {X264} -pix_fmt yuv444p yuv444.mp4",
    "yuv422.mp4": f"{PICTURE} {X264} -pix_fmt yuv422p yuv422.mp4",
    # what is refused
    "transparent.gif": f"{_picture(frames=3)} -vf format=bgra transparent.gif",
    "wmv.wmv": f"{PICTURE} {SOUND} -c:v wmv2 -g 8 -c:a wmav2 wmv.wmv",
    "drm.mp4": (
        f"{PICTURE} {SOUND} {X264} -c:a aac -encryption_scheme cenc-aes-ctr "
        "-encryption_key 76a6c65c5ea762046bd749a2e632ccbb -encryption_kid a7e61c373e219033c21091fa607bf3b8 drm.mp4"
    ),
    "sound.mp4": f"{SOUND} -c:a aac sound.mp4",
    "no_frame.mp4": f"{PICTURE} {SOUND} {X264} -c:a aac -frames:v 0 no_frame.mp4",
    "two_pictures.mkv": f"{PICTURE} {PICTURE} {X264} -map 0 -map 1 two_pictures.mkv",
    # to be damaged
    "faststart.mp4": f"{PICTURE} {SOUND} {X264} -c:a aac -movflags +faststart faststart.mp4",
    "small.h264": f"{_picture(size='32x32', frames=9)} {X264} small.h264",
    # real ones: the first second, packets untouched
    "real_bunny.mp4": "-i real_bunny.source -map 0 -c copy -t 1 real_bunny.mp4",
    "real_film.mp4": "-i real_film.source -map 0 -c copy -t 0.2 real_film.mp4",
    "real_carphone.mp4": "-i real_carphone.source -c copy -t 1 real_carphone.mp4",
}

SOURCES = {
    "real_bunny.mp4": BUNNY,
    "real_film.mp4": SHARED / "bigbuckbunny.mp4",
    "real_carphone.mp4": SHARED / "carphone_pristine.mp4",
}
"""Of the clips that were not made."""

_EXTRAS = {
    "titles.srt": (
        "1\n00:00:00,100 --> 00:00:00,500\nFirst line\n\n2\n00:00:00,600 --> 00:00:00,900\nSecond <i>line</i>\n"
    ),
    "chapters.txt": (
        ";FFMETADATA1\ntitle=A film\nartist=Somebody\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=400\ntitle=Dawn\n"
        "[CHAPTER]\nTIMEBASE=1/1000\nSTART=400\nEND=960\ntitle=Dusk\n"
    ),
    "font.ttf": "not a font, but bytes that must not change",
}


def make_clip(name, folder):
    """Make a clip of `CLIPS` in `folder`, once."""
    path = folder / name
    if not path.exists():
        if name in SOURCES:
            if not SOURCES[name].exists():
                pytest.skip(f"{SOURCES[name]} is not there")
            shutil.copy(SOURCES[name], path.with_suffix(".source"))
        for extra, content in _EXTRAS.items():
            (folder / extra).write_text(content)
        if not (folder / "cover.png").exists():
            ffmpeg(f"{_picture(size='16x16', frames=1)} cover.png", folder)
        for line in CLIPS[name].splitlines():
            ffmpeg(line, folder)
    return path


def ffmpeg(line, folder):
    """Run the program with the arguments in `line`, in `folder`."""
    command = ["ffmpeg", "-nostdin", "-v", "error", "-y", *shlex.split(line)]
    subprocess.run(command, cwd=folder, check=True)
