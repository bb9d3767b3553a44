//! Tasks that are nothing but what a test says of them.

use std::sync::Mutex;

use async_trait::async_trait;
use gantry_core::tasks::{CreateTask, ExecProcess, Exit, Metrics, Process, Status, Tasks};
use gantry_core::{Any, Context, Error, Result};

/// A list of tasks, all of which run. It refuses everything else.
#[derive(Default)]
pub(super) struct FakeTasks(Mutex<Vec<Process>>);

impl FakeTasks {
    /// Adds one whose first process is this.
    pub(super) fn add(&self, id: &str, pid: u32) {
        let status = Status::Running;
        let process = Process { container_id: id.to_owned(), pid, status, ..Process::default() };
        self.0.lock().unwrap().push(process);
    }
}

fn refused<T>() -> Result<T> {
    Err(Error::unimplemented("no shim may be asked"))
}

#[async_trait]
impl Tasks for FakeTasks {
    async fn list(&self, _: &Context) -> Result<Vec<Process>> {
        Ok(self.0.lock().unwrap().clone())
    }

    async fn create(&self, _: &Context, _: CreateTask) -> Result<u32> {
        refused()
    }

    async fn start(&self, _: &Context, _: &str, _: &str) -> Result<u32> {
        refused()
    }

    async fn delete(&self, _: &Context, _: &str, _: &str) -> Result<(u32, Exit)> {
        refused()
    }

    async fn get(&self, _: &Context, _: &str, _: &str) -> Result<Process> {
        refused()
    }

    async fn kill(&self, _: &Context, _: &str, _: &str, _: u32, _: bool) -> Result<()> {
        refused()
    }

    async fn end_shim(&self, _: &Context, _: &str) -> Result<()> {
        refused()
    }

    async fn exec(&self, _: &Context, _: ExecProcess) -> Result<()> {
        refused()
    }

    async fn resize(&self, _: &Context, _: &str, _: &str, _: u32, _: u32) -> Result<()> {
        refused()
    }

    async fn close_stdin(&self, _: &Context, _: &str, _: &str) -> Result<()> {
        refused()
    }

    async fn pause(&self, _: &Context, _: &str) -> Result<()> {
        refused()
    }

    async fn resume(&self, _: &Context, _: &str) -> Result<()> {
        refused()
    }

    async fn pids(&self, _: &Context, _: &str) -> Result<Vec<(u32, Option<Any>)>> {
        refused()
    }

    async fn update(&self, _: &Context, _: &str, _: Any) -> Result<()> {
        refused()
    }

    async fn metrics(&self, _: &Context, _: &str) -> Result<Metrics> {
        refused()
    }

    async fn wait(&self, _: &Context, _: &str, _: &str) -> Result<Exit> {
        refused()
    }
}
