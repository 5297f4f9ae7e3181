"""Object stores behind one small protocol: a local directory, or S3.

store = open_store(".tidegate/store")          # a directory
store = open_store("s3://models/team-a")       # a bucket and prefix, endpoint and keys from the usual AWS settings
"""

from tidegate.storage.opening import open_store
from tidegate.storage.store import ObjectStore, StoredObject

__all__ = ["ObjectStore", "StoredObject", "open_store"]
