"""The patterns of the project file's texts, and each in words, for whoever wrote a text that does not match."""

LINE = r"^[^\x00-\x1f\x7f]*$"
NAME = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
FUNCTION = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"
KUBERNETES_NAME = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$"
EXTENDED_RESOURCE = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
ENVIRONMENT_NAME = r"^[A-Z_][A-Z0-9_]*$"
ABSOLUTE_PATH = r"^/[^\x00-\x1f\x7f]*$"

IN_WORDS = {
    LINE: "use one line, without control characters",
    NAME: "use lower-case letters, digits and '-'; a letter first, no '-' at the end",
    FUNCTION: "use 'module:function', such as 'train:train'",
    KUBERNETES_NAME: "use lower-case letters, digits and '-'; no '-' at either end",
    QUANTITY: "is not a quantity of Kubernetes; use such as '500m' (of a core) or '2Gi' (of memory)",
    EXTENDED_RESOURCE: "is not an extended resource; use 'vendor/name', such as 'nvidia.com/gpu'",
    ENVIRONMENT_NAME: "is not the name of a variable; use upper-case letters, digits and '_', no digit first",
    ABSOLUTE_PATH: "is not an absolute path; start it with '/'",
}
