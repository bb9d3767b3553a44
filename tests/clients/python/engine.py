"""A container's life through gantry.engine.v1: engine.py SOCKET IMAGE"""

import sys

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from gantry.engine.v1 import containers_pb2 as containers
from gantry.engine.v1 import containers_pb2_grpc, events_pb2_grpc, images_pb2_grpc
from gantry.engine.v1 import events_pb2 as events
from gantry.engine.v1 import images_pb2 as images


# gRPC for Python names the server by the socket's path, which HTTP/2 servers may refuse.
AUTHORITY = [("grpc.default_authority", "localhost")]


def pull(channel, reference):
    """Pulls an image; returns its full name."""
    stub = images_pb2_grpc.ImagesStub(channel)
    for progress in stub.Pull(images.PullImageRequest(reference=reference)):
        if progress.WhichOneof("event") == "done":
            return progress.done.name
    raise RuntimeError("the pull ended without a word")


def execute(stub, container, *command):
    """Runs a command in a container; returns its exit code and output."""
    first = containers.SessionInput(
        exec=containers.ExecProcess(container=container, command=command)
    )
    output = b""
    for answer in stub.Exec(iter([first])):
        kind = answer.WhichOneof("output")
        if kind in ("stdout", "stderr"):
            output += getattr(answer, kind)
        elif kind == "exited":
            return answer.exited.status, output.decode()
    raise RuntimeError("the session ended without an exit code")


def main(socket, image):
    with grpc.insecure_channel(f"unix:{socket}", options=AUTHORITY) as channel:
        stub = containers_pb2_grpc.ContainersStub(channel)
        cursor = stub.List(containers.ListContainersRequest(all=True)).cursor
        print("pulled", pull(channel, image))

        # Repeating the request with its key makes no second container.
        request = containers.CreateContainerRequest(
            spec=containers.ContainerSpec(
                name="python",
                image=image,
                network="none",
                command=["sh", "-c", "echo hello from python; exec sleep 600"],
            ),
            idempotency_key="python-1",
        )
        made = stub.Create(request)
        again = stub.Create(request)
        assert (again.id, again.existing) == (made.id, True), again
        name = {"container": made.id}
        stub.Start(containers.StartContainerRequest(**name))
        print("exec", *execute(stub, made.id, "sh", "-c", "mkfifo /tmp/x && ls /tmp"), end="")

        logs = stub.Logs(containers.LogsRequest(follow=True, tail=-1, **name))
        print("log", next(logs).data.decode(), end="")
        stub.Stop(containers.StopContainerRequest(timeout=0, **name))
        assert list(logs) == [], "the log ends with the container"
        code = stub.Wait(containers.WaitContainerRequest(**name)).status
        print("exit", code)
        stub.Remove(containers.RemoveContainerRequest(**name))

        # Whatever happened since the listing, though it is over.
        wanted = 'kind==container,action~="^(created|started|died|removed)$"'
        request = events.SubscribeRequest(cursor=cursor, filters=[wanted])
        told = []
        for event in events_pb2_grpc.EventsStub(channel).Subscribe(request):
            told.append(event.action)
            if event.action == "removed":
                break
        print("events", *told)

        try:
            stub.Inspect(containers.InspectContainerRequest(**name))
        except grpc.RpcError as error:
            for detail in rpc_status.from_call(error).details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info):
                    print("error", info.domain, info.reason, info.metadata["object"])


if __name__ == "__main__":
    main(*sys.argv[1:])
