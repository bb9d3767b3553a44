//! containerd's streaming and transfer services.

use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream as Messages, StreamExt};
use gantry_core::Error;
use gantry_grpc::containerd::services::streaming::v1 as api;
use gantry_grpc::containerd::services::transfer::v1 as transfer;
use gantry_grpc::{any, context, status};
use prost_types::Any;
use tonic::{Request, Response, Status, Streaming};

use crate::Transfer;
use crate::streams::{ClientEnd, Streams};

/// `containerd.services.streaming.v1.Streaming`.
#[derive(Clone)]
pub struct StreamingServer {
    streams: Streams,
}

impl StreamingServer {
    /// Offers streams to calls that look for them there.
    pub fn new(streams: Streams) -> Self {
        Self { streams }
    }
}

#[tonic::async_trait]
impl api::streaming_server::Streaming for StreamingServer {
    type StreamStream = Pin<Box<dyn Messages<Item = Result<Any, Status>> + Send>>;

    async fn stream(
        &self,
        request: Request<Streaming<Any>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let ctx = context::of(&request)?;
        let mut messages = request.into_inner();
        let init = messages.message().await?.ok_or_else(|| {
            status::to_wire(Error::invalid_argument("the stream has no first message"))
        })?;
        let init: api::StreamInit = any::unpack(&init).map_err(|_| {
            let found = &init.type_url;
            status::to_wire(Error::invalid_argument(format!(
                "the first message of a stream must be StreamInit, not {found:?}: invalid argument"
            )))
        })?;
        let ClientEnd { to, from } = self.streams.open(&ctx, &init.id).map_err(status::to_wire)?;
        tokio::spawn(async move {
            // Until the client has said all, or the call wants no more.
            while let Ok(Some(message)) = messages.message().await {
                if to.send(message).await.is_err() {
                    break;
                }
            }
        });
        // The offer ends with the client, who no longer polls this.
        let answers = futures::stream::unfold(from, |mut from| async {
            from.next().await.map(|message| (Ok(message), from))
        });
        let opened = futures::stream::once(async { Ok(any::pack(&())) });
        Ok(Response::new(Box::pin(opened.chain(answers))))
    }
}

/// `containerd.services.transfer.v1.Transfer`.
#[derive(Clone)]
pub struct TransferServer {
    transfer: Arc<Transfer>,
}

impl TransferServer {
    /// Serves this one.
    pub fn new(transfer: Arc<Transfer>) -> Self {
        Self { transfer }
    }
}

#[tonic::async_trait]
impl transfer::transfer_server::Transfer for TransferServer {
    async fn transfer(
        &self,
        request: Request<transfer::TransferRequest>,
    ) -> Result<Response<()>, Status> {
        let ctx = context::of(&request)?;
        let request = request.into_inner();
        let (source, destination) =
            (request.source.unwrap_or_default(), request.destination.unwrap_or_default());
        let progress = request.options.unwrap_or_default().progress_stream;
        let done = self.transfer.transfer(&ctx, &source, &destination, &progress).await;
        done.map_err(status::to_wire)?;
        Ok(Response::new(()))
    }
}

#[cfg(test)]
mod tests {
    use gantry_core::{Context, Kind, Namespace};
    use tokio::sync::mpsc;

    use super::*;
    use crate::streams::{QUEUE, Stream};

    fn pair() -> (Stream, mpsc::Sender<Any>, mpsc::Receiver<Any>) {
        let (incoming, from) = mpsc::channel(QUEUE);
        let (to, outgoing) = mpsc::channel(QUEUE);
        (Stream { from, to }, incoming, outgoing)
    }

    #[tokio::test]
    async fn a_stream_is_offered_taken_and_ends() {
        let streams = Streams::default();
        let ctx = |name: &str| Context::new(Namespace::new(name).unwrap());
        let (stream, incoming, mut outgoing) = pair();
        let offered = streams.offer(&ctx("a"), "s", stream).unwrap();
        let again = streams.offer(&ctx("a"), "s", pair().0).err().unwrap();
        assert_eq!(again.kind(), Kind::AlreadyExists);
        assert_eq!(streams.take(&ctx("b"), "s").unwrap_err().kind(), Kind::NotFound);
        let mut taken = streams.take(&ctx("a"), "s").unwrap();
        incoming.send(any::pack(&())).await.unwrap();
        assert!(taken.receive().await.is_some());
        taken.send(any::pack(&())).await.unwrap();
        assert!(outgoing.recv().await.is_some());
        drop(taken);
        assert!(outgoing.recv().await.is_none() && incoming.is_closed());
        // Another of the same name does not go with it.
        let _other = streams.offer(&ctx("a"), "s", pair().0).unwrap();
        drop(offered);
        streams.take(&ctx("a"), "s").unwrap();
    }

    #[tokio::test]
    async fn what_nobody_took_goes_with_its_client() {
        let streams = Streams::default();
        let ctx = Context::new(Namespace::new("a").unwrap());
        let offered = streams.offer(&ctx, "s", pair().0).unwrap();
        drop(offered);
        assert_eq!(streams.take(&ctx, "s").unwrap_err().kind(), Kind::NotFound);
        assert!(streams.offer(&ctx, "", pair().0).is_err());
    }
}
