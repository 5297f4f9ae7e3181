"""Message classes of the protocol, in a descriptor pool of their own.

The default pool allows each protobuf symbol once in a process; there, tritonclient's and KServe's stubs would clash with
ours as they do with each other.
"""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from tidegate.serving.grpc_v2.descriptors import FILE_DESCRIPTOR_SET

_pool = descriptor_pool.DescriptorPool()
for _file in descriptor_pb2.FileDescriptorSet.FromString(FILE_DESCRIPTOR_SET).file:
    _pool.Add(_file)


def message_class(name: str) -> Any:
    """Return the class of the message with this full name, such as `inference.ModelInferRequest`."""
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(name))


def methods_of(service: str) -> dict[str, tuple[Any, Any]]:
    """Return a service's methods by name, each with its request and response class."""
    return {
        method.name: (
            message_factory.GetMessageClass(method.input_type),
            message_factory.GetMessageClass(method.output_type),
        )
        for method in _pool.FindServiceByName(service).methods
    }
