"""Signatures of box file formats: supported ones, and those of other tools.

An unsupported format has a title, and advice on a format to export instead.
"""

from collections.abc import Mapping
from typing import NamedTuple

from sppfeat.boxes.formats.arrays import MAT_V73_MAGIC
from sppfeat.boxes.formats.via import VIA_COLUMNS

__all__ = [
    "COCO",
    "COLUMNS",
    "DATA_YAML",
    "DOTA",
    "JSON_KEYS",
    "KITTI",
    "LABELME_XML",
    "MAGIC",
    "MOT",
    "TFRECORD",
    "XML_ROOTS",
    "ZIPPED",
    "FoundFormat",
    "zip_of",
]


class FoundFormat(NamedTuple):
    """The format of a file: one of ``BOX_FORMATS``, or empty for an unsupported one, with its title and advice."""

    box_format: str
    title: str = ""
    advice: str = ""


_EXPORT = "export the boxes as COCO, Pascal VOC or YOLO"
_UNPACK = "unpack it, and give the file or folder of boxes in it"

MAGIC: Mapping[bytes, FoundFormat] = {
    b"\x93NUMPY": FoundFormat("numpy"),
    b"MATLAB 5.0": FoundFormat("mat"),
    MAT_V73_MAGIC: FoundFormat("mat"),
    b"PAR1": FoundFormat("parquet"),
    b"ARROW1": FoundFormat(
        "", "a Feather or Arrow file", "write Parquet or CSV, with DataFrame.to_parquet or to_csv"
    ),
    b"FEA1": FoundFormat("", "a Feather file", "write Parquet or CSV, with DataFrame.to_parquet or to_csv"),
    b"\xd0\xcf\x11\xe0": FoundFormat("", "an Excel workbook (.xls)", "save the sheet as 'CSV UTF-8'"),
    b"\x89HDF": FoundFormat("", "an HDF5 file", "write the boxes as CSV, or as .npz"),
    b"SQLite format 3": FoundFormat("", "an SQLite database", "write the table as CSV"),
    b"\x1f\x8b": FoundFormat("", "a file compressed by gzip", _UNPACK),
    b"BZh": FoundFormat("", "a file compressed by bzip2", _UNPACK),
    b"\xfd7zXZ": FoundFormat("", "a file compressed by xz", _UNPACK),
    b"\x28\xb5\x2f\xfd": FoundFormat("", "a file compressed by zstd", _UNPACK),
    b"7z\xbc\xaf": FoundFormat("", "a 7-Zip archive", _UNPACK),
    b"Rar!": FoundFormat("", "a RAR archive", _UNPACK),
    b"%PDF": FoundFormat("", "a PDF document", _EXPORT),
    b"\xff\xd8\xff": FoundFormat("", "a JPEG image", "give the file of its boxes"),
    b"\x89PNG\r\n\x1a\n": FoundFormat("", "a PNG image", "give the file of its boxes"),
    **{
        b"\x80" + bytes([protocol]): FoundFormat(
            "", "a Python pickle", "write the boxes as CSV or .npz, since a pickle can run any code"
        )
        for protocol in range(2, 6)
    },
}

ZIPPED: Mapping[str, FoundFormat] = {  # by the end of a member's name
    "xl/workbook.xml": FoundFormat("", "an Excel workbook (.xlsx)", "save the sheet as 'CSV UTF-8'"),
    "xl/workbook.bin": FoundFormat("", "an Excel workbook (.xlsb)", "save the sheet as 'CSV UTF-8'"),
    "META-INF/manifest.xml": FoundFormat(
        "", "an OpenDocument spreadsheet", "save the sheet as CSV, in UTF-8"
    ),
    "/data.pkl": FoundFormat("", "a file that torch.save wrote", "write the boxes as CSV, or as .npz"),
    ".npy": FoundFormat("numpy"),
}

XML_ROOTS: Mapping[str, FoundFormat] = {  # by the root element
    "annotation": FoundFormat("voc"),
    "annotations": FoundFormat("cvat"),
    "dataset": FoundFormat("", "dlib's XML (imglab)", "convert it to COCO, Pascal VOC or CSV"),
    "pcgts": FoundFormat("", "PAGE XML", _EXPORT),
    "alto": FoundFormat("", "ALTO XML", _EXPORT),
    "gpx": FoundFormat("", "GPX", _EXPORT),
    "html": FoundFormat(
        "", "an HTML page, which a site may send instead of a file", "download the file itself"
    ),
}

_LABELME, _VIA, COCO = FoundFormat("labelme"), FoundFormat("via"), FoundFormat("coco")
_LABEL_STUDIO = FoundFormat("", "JSON of Label Studio", "in Label Studio, export as YOLO or COCO")
_CREATE_ML = FoundFormat("", "JSON of CreateML", _EXPORT)
_LABELBOX = FoundFormat(
    "", "JSON of Labelbox", "convert the export to COCO or YOLO, for example with labelformat"
)
_SUPERVISELY = FoundFormat(
    "", "JSON of Supervisely", "in Supervisely, run the app 'Export to COCO' or 'Export to YOLO'"
)
_DARWIN = FoundFormat("", "JSON of V7 Darwin", "in V7, export as COCO, Pascal VOC or YOLO")
_DATUMARO = FoundFormat("", "JSON of Datumaro", "convert it with 'datum convert -f coco'")
_BDD100K = FoundFormat("", "JSON of BDD100K", "convert it with bdd100k.label.to_coco")
_GEO_JSON = FoundFormat("", "GeoJSON, such as QuPath's", _EXPORT)

# Key paths that identify a format: [] is an item of a list, and * any key. The first match counts.
JSON_KEYS: tuple[tuple[tuple[str, ...], FoundFormat], ...] = (
    (("images/[]/file_name",), COCO),
    (("images", "annotations"), COCO),
    (("annotations/[]/image_id",), COCO),
    (("[]/image_id", "[]/bbox"), COCO),
    (("shapes/[]/points",), _LABELME),
    (("shapes", "imagePath"), _LABELME),
    (("imageData",), _LABELME),
    (("_via_img_metadata",), _VIA),
    (("_via_settings",), _VIA),
    (("*/regions", "*/filename"), _VIA),
    (("project/pid", "metadata"), FoundFormat("", "JSON of VIA 3", "export as COCO, or annotate with VIA 2")),
    (("[]/annotations/[]/coordinates",), _CREATE_ML),
    (("[]/image", "[]/annotations"), _CREATE_ML),
    (("[]/imagefilename", "[]/annotation"), _CREATE_ML),
    (("[]/annotations/[]/result",), _LABEL_STUDIO),
    (("[]/completions",), _LABEL_STUDIO),
    (("[]/data", "[]/predictions"), _LABEL_STUDIO),
    (("[]/data", "[]/annotations"), _LABEL_STUDIO),
    (("[]/lead_time",), _LABEL_STUDIO),
    (("[]/annotation_id", "[]/annotator"), _LABEL_STUDIO),
    (("result", "task"), _LABEL_STUDIO),
    (("data_row", "projects"), _LABELBOX),
    (("[]/data_row",), _LABELBOX),
    (("[]/DataRow ID",), _LABELBOX),
    (("[]/Labeled Data",), _LABELBOX),
    (("objects/[]/classTitle",), _SUPERVISELY),
    (("objects", "tags", "size/height"), _SUPERVISELY),
    (("classes/[]/shape",), _SUPERVISELY),
    (("annotations/[]/bounding_box",), _DARWIN),
    (("annotations", "item/slots"), _DARWIN),
    (("items", "categories"), _DATUMARO),
    (("items/[]/annotations",), _DATUMARO),
    (("instances", "metadata"), FoundFormat("", "JSON of SuperAnnotate", "convert it to COCO")),
    (("images/[]/labels",), FoundFormat("", "JSON of Hasty", "in Hasty, export as COCO")),
    (("imgHeight", "objects"), FoundFormat("", "JSON of Cityscapes", "convert it to COCO")),
    (("[]/labels/[]/box2d",), _BDD100K),
    (("frames/[]/objects/[]/box2d",), _BDD100K),
    (
        ("samples/[]/filepath",),
        FoundFormat("", "JSON of FiftyOne", "in FiftyOne, export as COCODetectionDataset"),
    ),
    (("features/[]/geometry",), _GEO_JSON),
    (("features", "type"), _GEO_JSON),
    (("source-ref",), FoundFormat("", "a manifest of SageMaker Ground Truth", "convert it to COCO")),
    (("imageGcsUri",), FoundFormat("", "JSON lines of Vertex AI", _EXPORT)),
    (("spans/[]/points",), FoundFormat("", "JSON lines of Prodigy", "convert it to COCO")),
)

COLUMNS: tuple[tuple[tuple[str, ...], FoundFormat], ...] = (
    (VIA_COLUMNS, _VIA),
    (("image", "annotator", "annotation_id"), FoundFormat("", "CSV of Label Studio", _LABEL_STUDIO.advice)),
    (("datarow id",), FoundFormat("", "CSV of Labelbox", _LABELBOX.advice)),
    (
        ("imageid", "labelname", "xmin", "xmax"),
        FoundFormat("", "CSV of Open Images", "rename ImageID to image, and add --box-units normalized"),
    ),
)

KITTI = FoundFormat("", "a label file of KITTI", "convert the labels to YOLO, COCO or CSV")
DOTA = FoundFormat("", "a DOTA label file, with rotated boxes", "convert the labels to YOLO, COCO or CSV")
MOT = FoundFormat(
    "", "a MOT file of tracks in video frames", "write CSV, with a header and the names of images"
)
DATA_YAML = FoundFormat("", "the description of a YOLO dataset", "give the folder of its labels")
LABELME_XML = FoundFormat("", "XML of the web tool LabelMe, with polygons", _EXPORT)
TFRECORD = FoundFormat("", "a TFRecord file", f"{_EXPORT}, or write CSV")


def zip_of(name: str) -> FoundFormat:
    """Return the format of a zip archive that holds files such as this one."""
    return FoundFormat("", f"a zip archive with {name} and other files", _UNPACK)
