"""Pitches, chords and tunings. The domain is held out: none of its words may occur in another split."""

from tljax.toolbox.domains.tables import list_sampler, lookup
from tljax.toolbox.schema import local_tool

PITCHES = ("C", "Csharp", "D", "Dsharp", "E", "F", "Fsharp", "G", "Gsharp", "A", "Asharp", "B")
MODES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10), "dorian": (0, 2, 3, 5, 7, 9, 10)}
TUNINGS = {"guitar": "E A D G B E", "violin": "G D A E", "ukulele": "G C E A", "cello": "C G D A", "banjo": "G D G B D"}
TEMPI = {"largo": 50, "adagio": 70, "andante": 92, "allegro": 132, "presto": 180}


def transpose_pitch(pitch: str, semitones: int) -> str:
    """Transpose a pitch by semitones.

    Args:
        pitch: The pitch.
        semitones: The semitones.
    """
    index = {known: i for i, known in enumerate(PITCHES)}
    return PITCHES[(lookup(index, pitch, "pitch") + semitones) % 12]


def transpose_melody(melody: list[str], semitones: int) -> list[str]:
    """Transpose a melody by semitones.

    Args:
        melody: The melody.
        semitones: The semitones.
    """
    return [transpose_pitch(pitch, semitones) for pitch in melody]


def identify_scale(tonic: str, mode: str) -> str:
    """Identify the scale over a tonic.

    Args:
        tonic: The tonic.
        mode: The mode, such as dorian.
    """
    return " ".join(transpose_pitch(tonic, step) for step in lookup(MODES, mode, "mode")[:4])


def identify_tempo(marking: str) -> int:
    """Identify the tempo behind a marking.

    Args:
        marking: The Italian marking.
    """
    return lookup(TEMPI, marking, "marking")


def tune_instrument(instrument: str) -> str:
    """Tune the strings of an instrument.

    Args:
        instrument: The instrument.
    """
    return lookup(TUNINGS, instrument, "instrument")


BAD, STEPS = ("Hsharp", "Jflat"), range(1, 12)

TOOLS = (
    local_tool(transpose_pitch, {"pitch": PITCHES, "semitones": STEPS}, {"pitch": BAD}, split="domain"),
    local_tool(transpose_melody, {"melody": list_sampler(PITCHES, 2, 4), "semitones": STEPS}, split="domain"),
    local_tool(
        identify_scale, {"tonic": PITCHES, "mode": tuple(MODES)}, {"tonic": BAD, "mode": ("bebop",)}, split="domain"
    ),
    local_tool(identify_tempo, {"marking": tuple(TEMPI)}, {"marking": ("vivacissimo", "staccato")}, split="domain"),
    local_tool(tune_instrument, {"instrument": tuple(TUNINGS)}, {"instrument": ("trumpet", "drum")}, split="domain"),
)
