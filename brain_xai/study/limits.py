"""How much a study may hold, so that hostile files cost bounded memory and time, and the sentences for what is more."""

# Files in a folder or an archive; the largest part of a hospital's CD.
MAX_FILES = 3000
# Slices of one study. A 3-D scan of the head has 150 to 300.
MAX_SLICES = 1000
# Width times height of one slice. The finest MR scans have 1024 x 1024.
MAX_SLICE_PIXELS = 2048 * 2048
# Bytes of all decoded voxels, unless the caller allows less: 512 x 512 x 1000 in 16 bits. At most twice this is in
# memory while reading.
MAX_VOLUME_BYTES = 512 * 2**20
# Bytes of one file, and of an archive once it is unpacked.
MAX_FILE_BYTES = 600 * 2**20
MAX_UNPACKED_BYTES = 2**30
# Reads of all files of a study; two per element. 3,000 files have 200 elements each.
MAX_READS = 3_000_000
# Bytes between the header of a NIfTI file and its voxels, where extensions are.
MAX_EXTENSION_BYTES = 16 * 2**20

MEDICAL_TEXT = "Run pip install brain-xai[medical] where Brain XAI runs, or save one slice as PNG and try that file."
DAMAGED_TEXT = "is damaged or incomplete. Export it again. Save one slice as PNG if that does not help."
TOO_MANY_SLICES_TEXT = f"The study has more than {MAX_SLICES:,} slices. Choose one series of the head."
TOO_MANY_FILES_TEXT = f"There are more than {MAX_FILES:,} files. Choose one series."
SLICE_TOO_LARGE_TEXT = "One slice has more than 2048 × 2048 pixels. An MR slice has at most 1024 × 1024; choose one."
TOO_MANY_PARTS_TEXT = "The files have far more elements than a study needs. Export it again, then retry."


def too_large_text(max_bytes: int) -> str:
    """Return the sentence for a volume of more bytes than the caller allows."""
    return f"The study needs more than {max_bytes // 2**20} MB of memory. Choose one series, or a smaller volume."
