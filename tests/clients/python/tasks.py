"""An image and a container through containerd's API: tasks.py SOCKET IMAGE CGROUP"""

import json
import sys

import grpc
from google.protobuf import any_pb2

from containerd.services.containers.v1 import containers_pb2, containers_pb2_grpc
from containerd.services.content.v1 import content_pb2, content_pb2_grpc
from containerd.services.images.v1 import images_pb2, images_pb2_grpc
from containerd.services.snapshots.v1 import snapshots_pb2, snapshots_pb2_grpc
from containerd.services.tasks.v1 import tasks_pb2, tasks_pb2_grpc
from containerd.services.transfer.v1 import transfer_pb2, transfer_pb2_grpc
from containerd.types import platform_pb2
from containerd.types.transfer import imagestore_pb2, registry_pb2

# gRPC for Python names the server by the socket's path, which HTTP/2 servers may refuse.
AUTHORITY = [("grpc.default_authority", "localhost")]
NAMESPACE = [("containerd-namespace", "python")]
SPEC = "types.containerd.io/opencontainers/runtime-spec/1/Spec"


def packed(message):
    """An Any as containerd writes it: without a prefix before the type's name."""
    return any_pb2.Any(
        type_url=message.DESCRIPTOR.full_name, value=message.SerializeToString()
    )


def pull(channel, image):
    """Pulls and unpacks an image under its own name."""
    source = registry_pb2.OCIRegistry(
        reference=image, resolver=registry_pb2.RegistryResolver(default_scheme="http")
    )
    unpack = imagestore_pb2.UnpackConfiguration(
        platform=platform_pb2.Platform(os="linux", architecture=machine()),
        snapshotter="overlayfs",
    )
    store = imagestore_pb2.ImageStore(name=image, unpacks=[unpack])
    transfer_pb2_grpc.TransferStub(channel).Transfer(
        transfer_pb2.TransferRequest(source=packed(source), destination=packed(store)),
        metadata=NAMESPACE,
    )


def machine():
    import platform

    return {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]


def blob(channel, digest):
    """A JSON document of the content store."""
    stub = content_pb2_grpc.ContentStub(channel)
    request = content_pb2.ReadContentRequest(digest=digest)
    return json.loads(b"".join(a.data for a in stub.Read(request, metadata=NAMESPACE)))


def top_layer(channel, image):
    """The key of the snapshot that holds the image's files."""
    import hashlib

    request = images_pb2.GetImageRequest(name=image)
    stub = images_pb2_grpc.ImagesStub(channel)
    document = blob(channel, stub.Get(request, metadata=NAMESPACE).image.target.digest)
    if "manifests" in document:
        document = blob(channel, document["manifests"][0]["digest"])
    chain = None
    for layer in blob(channel, document["config"]["digest"])["rootfs"]["diff_ids"]:
        both = layer if chain is None else f"{chain} {layer}"
        chain = layer if chain is None else f"sha256:{hashlib.sha256(both.encode()).hexdigest()}"
    return chain


def spec(cgroup, *args):
    """As little as a container needs."""
    namespaces = ["pid", "ipc", "uts", "mount", "network"]
    return {
        "ociVersion": "1.0.2",
        "process": {
            "cwd": "/",
            "args": args,
            "env": ["PATH=/usr/bin:/bin"],
            "user": {"uid": 0, "gid": 0},
        },
        "root": {"path": "rootfs"},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": [{"type": name} for name in namespaces],
        },
    }


def main(socket, image, cgroup):
    with grpc.insecure_channel(f"unix:{socket}", options=AUTHORITY) as channel:
        pull(channel, image)
        print("pulled")
        snapshots = snapshots_pb2_grpc.SnapshotsStub(channel)
        key = {"snapshotter": "overlayfs", "key": "c1"}
        request = snapshots_pb2.PrepareSnapshotRequest(parent=top_layer(channel, image), **key)
        rootfs = snapshots.Prepare(request, metadata=NAMESPACE).mounts

        records = containers_pb2_grpc.ContainersStub(channel)
        wanted = json.dumps(spec(f"{cgroup}/c1", "sleep", "600")).encode()
        container = containers_pb2.Container(
            id="c1",
            image=image,
            runtime=containers_pb2.Container.Runtime(name="io.containerd.runc.v2"),
            spec=any_pb2.Any(type_url=SPEC, value=wanted),
            snapshotter="overlayfs",
            snapshot_key="c1",
        )
        request = containers_pb2.CreateContainerRequest(container=container)
        records.Create(request, metadata=NAMESPACE)

        tasks = tasks_pb2_grpc.TasksStub(channel)
        c1 = {"container_id": "c1"}
        tasks.Create(tasks_pb2.CreateTaskRequest(rootfs=rootfs, **c1), metadata=NAMESPACE)
        ended = tasks.Wait.future(tasks_pb2.WaitRequest(**c1), metadata=NAMESPACE)
        pid = tasks.Start(tasks_pb2.StartRequest(**c1), metadata=NAMESPACE).pid
        print("started", pid > 0)
        tasks.Kill(tasks_pb2.KillRequest(signal=9, **c1), metadata=NAMESPACE)
        print("exit", ended.result(timeout=20).exit_status)
        tasks.Delete(tasks_pb2.DeleteTaskRequest(**c1), metadata=NAMESPACE)
        records.Delete(containers_pb2.DeleteContainerRequest(id="c1"), metadata=NAMESPACE)
        snapshots.Remove(snapshots_pb2.RemoveSnapshotRequest(**key), metadata=NAMESPACE)
        try:
            records.Get(containers_pb2.GetContainerRequest(id="c1"), metadata=NAMESPACE)
        except grpc.RpcError as error:
            print("gone", error.code().name)


if __name__ == "__main__":
    main(*sys.argv[1:])
