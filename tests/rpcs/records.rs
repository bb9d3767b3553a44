//! Calls to the services that keep records and bytes.

use gantry_core::Digest;
use gantry_grpc::containerd::services as s;
use gantry_grpc::containerd::types::Descriptor;
use prost::Message;
use prost_types::{Any, FieldMask};

use super::player::{BAD, NONE, Player, What};

impl Player {
    pub(super) async fn namespaces(&mut self) {
        use s::namespaces::v1::*;
        let namespace = |name: &str| Some(Namespace { name: name.into(), ..Default::default() });
        let own = format!("{}-other", self.namespace);
        let create = |name: &str| CreateNamespaceRequest { namespace: namespace(name) };
        let update =
            |name: &str| UpdateNamespaceRequest { namespace: namespace(name), update_mask: None };
        let get = |name: &str| GetNamespaceRequest { name: name.into() };
        let delete = |name: &str| DeleteNamespaceRequest { name: name.into() };
        self.wrong("Namespaces/Create", What::Bad, create(BAD)).await;
        let namespace = self.namespace.clone();
        for (what, name, header) in [
            (What::Nowhere, format!("{own}-2"), None),
            (What::Valid, own.clone(), Some(namespace.as_str())),
        ] {
            let request = create(&name).encode_to_vec();
            self.note("Namespaces/Create", what, vec![request], header).await;
        }
        self.valid::<GetNamespaceResponse>("Namespaces/Get", get(&own)).await;
        self.valid::<ListNamespacesResponse>("Namespaces/List", ListNamespacesRequest::default())
            .await;
        self.valid::<UpdateNamespaceResponse>("Namespaces/Update", update(&own)).await;
        self.missing("Namespaces/Get", get).await;
        self.missing("Namespaces/Update", update).await;
        self.missing("Namespaces/Delete", delete).await;
        for (what, name, header) in [
            (What::Nowhere, format!("{own}-2"), None),
            (What::Valid, own.clone(), Some(namespace.as_str())),
        ] {
            let request = delete(&name).encode_to_vec();
            self.note("Namespaces/Delete", what, vec![request], header).await;
        }
    }

    pub(super) async fn leases(&mut self, blob: &Digest) {
        use s::leases::v1::*;
        let create = |id: &str| CreateRequest { id: id.into(), ..Default::default() };
        let of = |kind: &str, id: &str| Some(Resource { id: id.into(), r#type: kind.into() });
        let add =
            |id: &str| AddResourceRequest { id: id.into(), resource: of("content", blob.as_str()) };
        let take = |id: &str| DeleteResourceRequest {
            id: id.into(),
            resource: of("content", blob.as_str()),
        };
        let list = |id: &str| ListResourcesRequest { id: id.into() };
        let delete = |id: &str| DeleteRequest { id: id.into(), sync: true };
        self.valid::<CreateResponse>("Leases/Create", create("l1")).await;
        self.valid::<ListResponse>("Leases/List", ListRequest::default()).await;
        let filters = vec!["id=".to_owned() + "\"open"];
        self.wrong("Leases/List", What::Bad, ListRequest { filters }).await;
        self.valid::<()>("Leases/AddResource", add("l1")).await;
        let strange = AddResourceRequest { id: "l1".into(), resource: of("strange", "x") };
        self.wrong("Leases/AddResource", What::Bad, strange).await;
        self.valid::<ListResourcesResponse>("Leases/ListResources", list("l1")).await;
        self.valid::<()>("Leases/DeleteResource", take("l1")).await;
        for (rpc, what) in [("Leases/AddResource", What::Unknown)] {
            self.wrong(rpc, what, add(NONE)).await;
        }
        self.wrong("Leases/DeleteResource", What::Unknown, take(NONE)).await;
        self.wrong("Leases/ListResources", What::Unknown, list(NONE)).await;
        self.wrong("Leases/Delete", What::Unknown, delete(NONE)).await;
        self.valid::<()>("Leases/Delete", delete("l1")).await;
    }

    pub(super) async fn content(&mut self) {
        use s::content::v1::*;
        let bytes = b"some bytes".to_vec();
        let digest = Digest::of(&bytes).to_string();
        let absent = Digest::of(b"absent").to_string();
        let write = |action: WriteAction, reference: &str, data: &[u8]| WriteContentRequest {
            action: action.into(),
            r#ref: reference.into(),
            data: data.to_vec().into(),
            ..Default::default()
        };
        self.valid_all(
            "Content/Write",
            vec![write(WriteAction::Write, "r1", &bytes).encode_to_vec()],
        )
        .await;
        let nameless = write(WriteAction::Stat, "", b"");
        self.wrong("Content/Write", What::Bad, nameless).await;
        let status = |reference: &str| StatusRequest { r#ref: reference.into() };
        self.valid::<StatusResponse>("Content/Status", status("r1")).await;
        self.wrong("Content/Status", What::Unknown, status(NONE)).await;
        self.valid::<ListStatusesResponse>("Content/ListStatuses", ListStatusesRequest::default())
            .await;
        let abort = |reference: &str| AbortRequest { r#ref: reference.into() };
        self.valid::<()>("Content/Abort", abort("r1")).await;
        self.wrong("Content/Abort", What::Unknown, abort(NONE)).await;
        let mut commit = write(WriteAction::Commit, "r2", &bytes);
        commit.total = bytes.len() as i64;
        commit.labels = [("containerd.io/gc.root".to_owned(), "1".to_owned())].into();
        self.valid_all("Content/Write", vec![commit.encode_to_vec()]).await;

        let info = |digest: &str| InfoRequest { digest: digest.into() };
        let update = |digest: &str| UpdateRequest {
            info: Some(Info { digest: digest.into(), ..Default::default() }),
            update_mask: Some(FieldMask { paths: vec!["labels.x".into()] }),
        };
        let read = |digest: &str| ReadContentRequest { digest: digest.into(), offset: 0, size: 0 };
        let delete = |digest: &str| DeleteContentRequest { digest: digest.into() };
        self.valid::<InfoResponse>("Content/Info", info(&digest)).await;
        self.valid::<UpdateResponse>("Content/Update", update(&digest)).await;
        self.valid::<ReadContentResponse>("Content/Read", read(&digest)).await;
        self.valid::<ListContentResponse>("Content/List", ListContentRequest::default()).await;
        let filters = vec!["digest==\"open".to_owned()];
        self.wrong("Content/List", What::Bad, ListContentRequest { filters }).await;
        for (what, name) in [(What::Unknown, absent.as_str()), (What::Bad, BAD)] {
            self.wrong("Content/Info", what, info(name)).await;
            self.wrong("Content/Update", what, update(name)).await;
            self.wrong("Content/Read", what, read(name)).await;
            self.wrong("Content/Delete", what, delete(name)).await;
        }
        self.valid::<()>("Content/Delete", delete(&digest)).await;
    }

    pub(super) async fn images(&mut self, target: &Descriptor) {
        use gantry_grpc::listing::Listing;
        use s::images::v1::*;
        let image = |name: &str| {
            let name = name.to_owned();
            Some(Image { name, target: Some(target.clone()), ..Default::default() })
        };
        let create =
            |name: &str| CreateImageRequest { image: image(name), source_date_epoch: None };
        let update = |name: &str| UpdateImageRequest { image: image(name), ..Default::default() };
        let get = |name: &str| GetImageRequest { name: name.into() };
        let delete = |name: &str| DeleteImageRequest { name: name.into(), ..Default::default() };
        self.valid::<CreateImageResponse>("Images/Create", create("i1")).await;
        self.wrong("Images/Create", What::Bad, create("")).await;
        self.valid::<GetImageResponse>("Images/Get", get("i1")).await;
        self.valid::<Listing>("Images/List", ListImagesRequest::default()).await;
        let filters = vec!["name==\"open".to_owned()];
        self.wrong("Images/List", What::Bad, ListImagesRequest { filters }).await;
        self.valid::<UpdateImageResponse>("Images/Update", update("i1")).await;
        self.wrong("Images/Update", What::Bad, update("")).await;
        self.wrong("Images/Get", What::Unknown, get(NONE)).await;
        self.wrong("Images/Update", What::Unknown, update(NONE)).await;
        self.wrong("Images/Delete", What::Unknown, delete(NONE)).await;
        self.valid::<()>("Images/Delete", delete("i1")).await;
    }

    pub(super) async fn snapshots(&mut self) {
        use s::snapshots::v1::*;
        let snapshotter = || "overlayfs".to_owned();
        let prepare = |key: &str, parent: &str| PrepareSnapshotRequest {
            snapshotter: snapshotter(),
            key: key.into(),
            parent: parent.into(),
            labels: [("containerd.io/gc.root".to_owned(), "1".to_owned())].into(),
        };
        let view = |key: &str, parent: &str| ViewSnapshotRequest {
            snapshotter: snapshotter(),
            key: key.into(),
            parent: parent.into(),
            ..Default::default()
        };
        let commit = |name: &str, key: &str| CommitSnapshotRequest {
            snapshotter: snapshotter(),
            name: name.into(),
            key: key.into(),
            labels: [("containerd.io/gc.root".to_owned(), "1".to_owned())].into(),
            ..Default::default()
        };
        let mounts = |key: &str| MountsRequest { snapshotter: snapshotter(), key: key.into() };
        let stat = |key: &str| StatSnapshotRequest { snapshotter: snapshotter(), key: key.into() };
        let usage = |key: &str| UsageRequest { snapshotter: snapshotter(), key: key.into() };
        let remove =
            |key: &str| RemoveSnapshotRequest { snapshotter: snapshotter(), key: key.into() };
        let update = |key: &str| UpdateSnapshotRequest {
            snapshotter: snapshotter(),
            info: Some(Info { name: key.into(), ..Default::default() }),
            update_mask: Some(FieldMask { paths: vec!["labels.x".into()] }),
        };
        let list = |snapshotter: &str| ListSnapshotsRequest {
            snapshotter: snapshotter.into(),
            filters: Vec::new(),
        };
        self.valid::<PrepareSnapshotResponse>("Snapshots/Prepare", prepare("s1", "")).await;
        self.wrong("Snapshots/Prepare", What::Unknown, prepare("s2", NONE)).await;
        self.valid::<MountsResponse>("Snapshots/Mounts", mounts("s1")).await;
        self.valid::<StatSnapshotResponse>("Snapshots/Stat", stat("s1")).await;
        self.valid::<UsageResponse>("Snapshots/Usage", usage("s1")).await;
        self.valid::<UpdateSnapshotResponse>("Snapshots/Update", update("s1")).await;
        self.valid::<()>("Snapshots/Commit", commit("n1", "s1")).await;
        self.valid::<ViewSnapshotResponse>("Snapshots/View", view("v1", "n1")).await;
        self.wrong("Snapshots/View", What::Unknown, view("v2", NONE)).await;
        self.valid::<ListSnapshotsResponse>("Snapshots/List", list("overlayfs")).await;
        self.wrong("Snapshots/List", What::Bad, list(BAD)).await;
        self.wrong("Snapshots/Mounts", What::Unknown, mounts(NONE)).await;
        self.wrong("Snapshots/Stat", What::Unknown, stat(NONE)).await;
        self.wrong("Snapshots/Usage", What::Unknown, usage(NONE)).await;
        self.wrong("Snapshots/Update", What::Unknown, update(NONE)).await;
        self.wrong("Snapshots/Commit", What::Unknown, commit("n2", NONE)).await;
        self.wrong("Snapshots/Remove", What::Unknown, remove(NONE)).await;
        self.valid::<()>("Snapshots/Remove", remove("v1")).await;
        self.valid::<()>("Snapshots/Remove", remove("n1")).await;
        let cleanup = CleanupRequest { snapshotter: snapshotter() };
        self.valid::<()>("Snapshots/Cleanup", cleanup).await;
        self.wrong("Snapshots/Cleanup", What::Bad, CleanupRequest { snapshotter: BAD.into() })
            .await;
    }

    pub(super) async fn containers(&mut self) {
        use s::containers::v1::*;
        let container = |id: &str| {
            let runtime =
                Some(container::Runtime { name: "io.containerd.runc.v2".into(), options: None });
            let spec = Some(Any {
                type_url: "types.containerd.io/opencontainers/runtime-spec/1/Spec".into(),
                value: b"{}".to_vec(),
            });
            Some(Container { id: id.into(), runtime, spec, ..Default::default() })
        };
        let create = |id: &str| CreateContainerRequest { container: container(id) };
        let update = |id: &str| UpdateContainerRequest {
            container: container(id),
            update_mask: Some(FieldMask { paths: vec!["labels.x".into()] }),
        };
        let get = |id: &str| GetContainerRequest { id: id.into() };
        let delete = |id: &str| DeleteContainerRequest { id: id.into() };
        let list = |filter: &str| ListContainersRequest { filters: vec![filter.into()] };
        self.valid::<CreateContainerResponse>("Containers/Create", create("c1")).await;
        self.wrong("Containers/Create", What::Bad, create(BAD)).await;
        self.valid::<GetContainerResponse>("Containers/Get", get("c1")).await;
        self.valid::<ListContainersResponse>("Containers/List", list("id==c1")).await;
        self.wrong("Containers/List", What::Bad, list("id==\"open")).await;
        self.valid_all("Containers/ListStream", vec![list("id==c1").encode_to_vec()]).await;
        self.wrong("Containers/ListStream", What::Bad, list("id==\"open")).await;
        self.valid::<UpdateContainerResponse>("Containers/Update", update("c1")).await;
        self.missing("Containers/Get", get).await;
        self.missing("Containers/Update", update).await;
        self.missing("Containers/Delete", delete).await;
        self.valid::<()>("Containers/Delete", delete("c1")).await;
    }
}
