//! Further processes in running containers.

use std::sync::Arc;
use std::time::Duration;

use gantry_core::attach::LogUri;
use gantry_core::containers::Container;
use gantry_core::db::blocking;
use gantry_core::tasks::{ExecProcess, Stdio};
use gantry_core::{Any, Context, Error, Kind, Result, faults};
use gantry_grpc::gantry::engine::v1::ContainerAction as Action;
use serde_json::{Value, json};

use crate::Engine;
use crate::attach::Attached;
use crate::execs::Noted;
use crate::files::attach_socket;
use crate::lifecycle::Found;
use crate::make::merge;
use crate::model::Phase;
use crate::names;
use crate::options::{ExecRequest, Session, SessionOutput};
use crate::run::NotRun;
use crate::scope;
use crate::session::{self, Ended, Target};
use crate::signal::KILL;
use crate::spec;

/// Between attempts to take a process away that was started after all.
const RETRY: Duration = Duration::from_secs(1);

impl Engine {
    /// Adds a process to a running container. A detached one is left on its
    /// own; for others input and output are carried until it ends, or until
    /// the caller goes, who leaves it running. There is none for a caller who
    /// goes before it runs.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` when the container does not run or is frozen;
    /// `InvalidArgument`. A command that can't be run ends the session with its exit code.
    pub async fn exec(
        self: &Arc<Self>,
        ctx: &Context,
        request: ExecRequest,
        mut session: Session,
    ) -> Result<()> {
        scope::admit_exec(ctx, &request)?;
        let mut found = self.find(ctx, &request.container).await?;
        let id = found.container.id.clone();
        match found.state.phase {
            Phase::Running => {}
            Phase::Paused => {
                return Err(Error::failed_precondition(format!(
                    "Container {} is paused, unpause the container before exec",
                    request.container
                ))
                .about("container", id));
            }
            Phase::Restarting => {
                return Err(Error::failed_precondition(format!(
                    "Container {} is restarting, wait until the container is running",
                    request.container
                ))
                .about("container", id));
            }
            _ => {
                let text = format!("container {id} is not running");
                return Err(Error::failed_precondition(text).about("container", id));
            }
        }
        let all = if request.privileged { self.specs.all_capabilities() } else { Vec::new() };
        let process = process_with(&found.container, &request, &all)?;
        // By far its largest part.
        found.container.spec = None;
        let exec_id = names::random_id();
        let noted = Noted::new(&found.live, &exec_id);
        let started = self.start_exec(ctx, &found, &exec_id, process, &request, &session).await;
        let (pid, attached) = match started {
            Ok(started) => started,
            Err(err) if matches!(err.kind(), Kind::DeadlineExceeded | Kind::Cancelled) => {
                // Its shim would let this call wait once more.
                let (engine, ctx) = (Arc::clone(self), ctx.clone());
                tokio::spawn(async move {
                    engine.take_back(&ctx, &id, &exec_id).await;
                    drop(noted);
                });
                return Err(err);
            }
            Err(err) => {
                self.clean_exec(ctx, &id, &exec_id).await;
                let command = request.command.first().map_or("", String::as_str);
                // What the runtime refuses of a container's first process is the daemon's failure, a
                // further one can't be executed: so it is for Docker.
                return match NotRun::of(&err, command).or_else(|| NotRun::of_further(&err)) {
                    Some(NotRun { status, text }) => {
                        session.tell(SessionOutput::Exited { status, error: text }).await;
                        Ok(())
                    }
                    None => Err(err),
                };
            }
        };
        if !session.tell(SessionOutput::Started { pid }).await {
            // Nobody was told that it runs. Whether it helped is seen by whether it ends.
            let _ = self.parts.tasks.kill(ctx, &id, &exec_id, KILL, false).await;
        }
        let mut status = None;
        if let Some(attached) = attached {
            let target = Target {
                engine: self,
                ctx,
                id: &id,
                exec_id: &exec_id,
                stdin: request.attach_stdin,
                sole: true,
            };
            status = match session::carry(target, attached, &mut session).await {
                Ended::Exit(status) => Some(status),
                Ended::CallerGone => None,
                // Its exit, if the shim lives; else it was killed with the shim.
                Ended::Lost => {
                    let exit = self.parts.tasks.wait(ctx, &id, &exec_id).await;
                    Some(exit.map_or(137, |exit| exit.status))
                }
            };
        }
        if let Some(status) = status {
            session.tell(SessionOutput::Exited { status, error: String::new() }).await;
        }
        self.clean_up_after(ctx, found, exec_id, noted);
        Ok(())
    }

    async fn start_exec(
        &self,
        ctx: &Context,
        found: &Found,
        exec_id: &str,
        spec: Any,
        request: &ExecRequest,
        session: &Session,
    ) -> Result<(u32, Option<Attached>)> {
        let id = found.container.id.as_str();
        let socket = attach_socket(&self.parts.config.state, exec_id);
        let uri = LogUri {
            attach: socket.display().to_string(),
            stdin: request.attach_stdin,
            ..LogUri::default()
        };
        // Without a caller nobody reads the output.
        let stdout = if request.detach { String::new() } else { uri.format() };
        let stdio = Stdio { stdout, terminal: request.tty, ..Stdio::default() };
        let process =
            ExecProcess { container_id: id.to_owned(), exec_id: exec_id.to_owned(), stdio, spec };
        self.parts.tasks.exec(ctx, process).await?;
        if session.output.is_closed() {
            let text = format!("exec in container {id}: the caller went away");
            return Err(Error::new(Kind::Cancelled, text));
        }
        let command = request.command.join(" ");
        let told = [("exec_id", exec_id), ("command", command.as_str())];
        self.tell_of(ctx, Action::ExecCreated, found, &told);
        let attached = if request.detach {
            None
        } else {
            let mut attached = Attached::connect(&socket).await?;
            if let Some(size) = request.size.filter(|_| request.tty) {
                attached.to.resize(size).await?;
            }
            Some(attached)
        };
        let pid = self.parts.tasks.start(ctx, id, exec_id).await?;
        self.tell_of(ctx, Action::ExecStarted, found, &told);
        Ok((pid, attached))
    }

    /// Waits for the process' end, if that is still to come, and takes it away.
    fn clean_up_after(
        self: &Arc<Self>,
        ctx: &Context,
        found: Found,
        exec_id: String,
        noted: Noted,
    ) {
        let engine = Arc::clone(self);
        let ctx = ctx.clone();
        tokio::spawn(async move {
            let id = found.container.id.as_str();
            // An error means that there is nothing to wait for.
            if let Ok(exit) = engine.parts.tasks.wait(&ctx, id, &exec_id).await {
                let code = exit.status.to_string();
                let told = [("exec_id", exec_id.as_str()), ("exit_code", code.as_str())];
                engine.tell_of(&ctx, Action::ExecDied, &found, &told);
            }
            drop(noted);
            engine.clean_exec(&ctx, id, &exec_id).await;
        });
    }

    /// Takes a process away that nobody was told of, whatever becomes of it: a shim that hangs
    /// comes to all that it was asked for once it goes on.
    async fn take_back(&self, ctx: &Context, id: &str, exec_id: &str) {
        while let Err(err) = self.parts.tasks.delete(ctx, id, exec_id).await {
            match err.kind() {
                Kind::DeadlineExceeded => {}
                // It was started just before.
                Kind::FailedPrecondition => {
                    let _ = self.parts.tasks.kill(ctx, id, exec_id, KILL, false).await;
                    tokio::time::sleep(RETRY).await;
                }
                Kind::Unavailable => tokio::time::sleep(RETRY).await,
                _ => break,
            }
        }
        self.remove_exec_socket(exec_id).await;
    }

    pub(crate) async fn clean_exec(&self, ctx: &Context, id: &str, exec_id: &str) {
        // It goes with the container, if that is gone.
        let _ = self.parts.tasks.delete(ctx, id, exec_id).await;
        self.remove_exec_socket(exec_id).await;
    }

    async fn remove_exec_socket(&self, exec_id: &str) {
        let socket = attach_socket(&self.parts.config.state, exec_id);
        let remove = || std::fs::remove_file(socket);
        let _ = blocking(move || Ok(faults::around("remove the socket of an exec", remove))).await;
    }
}

/// The process: the container's own, with what the caller wants otherwise.
pub(crate) fn process(container: &Container, request: &ExecRequest) -> Result<Any> {
    process_with(container, request, &[])
}

/// [`process`]; `all` are the capabilities of a privileged one.
fn process_with(container: &Container, request: &ExecRequest, all: &[&str]) -> Result<Any> {
    if request.command.is_empty() {
        return Err(Error::invalid_argument("No exec command specified"));
    }
    let damaged =
        || Error::data_loss(format!("the specification of container {} is damaged", container.id));
    let spec = container.spec.as_ref().map(|spec| spec.value.as_slice()).unwrap_or_default();
    let mut spec: Value = serde_json::from_slice(spec).map_err(|err| damaged().with_source(err))?;
    let mut process = spec.get_mut("process").map(Value::take).ok_or_else(damaged)?;
    process["args"] = json!(request.command);
    process["terminal"] = json!(request.tty);
    if let Some(size) = request.size.filter(|_| request.tty) {
        process["consoleSize"] = json!({"height": size.rows, "width": size.columns});
    } else if let Some(process) = process.as_object_mut() {
        process.remove("consoleSize");
    }
    let mut env: Vec<String> = process
        .get("env")
        .map(|env| serde_json::from_value(env.clone()))
        .transpose()
        .map_err(|err| damaged().with_source(err))?
        .unwrap_or_default();
    if request.tty && !env.iter().any(|e| e.starts_with("TERM=")) {
        env.push("TERM=xterm".to_owned());
    }
    request.env.iter().for_each(|entry| merge(&mut env, entry));
    process["env"] = json!(env);
    if !request.working_dir.is_empty() {
        if !request.working_dir.starts_with('/') {
            return Err(Error::invalid_argument(format!(
                "the working directory '{}' is invalid, it needs to be an absolute path",
                request.working_dir
            )));
        }
        process["cwd"] = json!(request.working_dir);
    }
    if !request.user.is_empty() {
        spec::check_user(&request.user)?;
        // The container's further groups stay.
        for (key, value) in
            [("uid", json!(0)), ("gid", json!(0)), ("username", json!(request.user))]
        {
            process["user"][key] = value;
        }
    }
    if request.privileged {
        spec::privileged(&mut process, all);
    }
    Ok(Any::process(process.to_string().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [&str; 2] = ["CAP_KILL", "CAP_SYS_ADMIN"];

    fn container() -> Container {
        let spec = json!({"process": {
            "args": ["web"], "env": ["A=1", "PATH=/bin"], "cwd": "/srv", "terminal": true,
            "consoleSize": {"height": 1, "width": 1},
            "user": {"uid": 0, "gid": 0, "username": "web", "additionalGids": [44]},
            "capabilities": {"bounding": ["CAP_KILL"]},
        }});
        let spec = Some(Any::spec(spec.to_string().into_bytes()));
        Container { id: "c1".into(), spec, ..Container::default() }
    }

    fn made(request: &ExecRequest) -> Value {
        serde_json::from_slice(&process_with(&container(), request, &ALL).unwrap().value).unwrap()
    }

    #[test]
    fn the_containers_ways() {
        let request = ExecRequest { command: vec!["ls".into()], ..ExecRequest::default() };
        let made = made(&request);
        assert_eq!(made["args"], json!(["ls"]));
        assert_eq!(made["cwd"], "/srv");
        assert_eq!(made["user"]["username"], "web");
        assert_eq!(made["terminal"], false);
        assert!(made.get("consoleSize").is_none());
        assert_eq!(made["capabilities"]["bounding"], json!(["CAP_KILL"]));
    }

    #[test]
    fn the_callers_wishes() {
        let request = ExecRequest {
            command: vec!["sh".into()],
            env: vec!["A=2".into(), "B=3".into()],
            working_dir: "/tmp".into(),
            user: "1000:1000".into(),
            tty: true,
            ..ExecRequest::default()
        };
        let made = made(&request);
        assert_eq!(made["env"], json!(["A=2", "PATH=/bin", "TERM=xterm", "B=3"]));
        assert_eq!(made["cwd"], "/tmp");
        assert_eq!(made["user"]["username"], "1000:1000");
        assert_eq!(made["user"]["additionalGids"], json!([44]));
    }

    #[test]
    fn privileged_ones_may_do_all() {
        let command = vec!["ls".into()];
        let request = ExecRequest { command, privileged: true, ..ExecRequest::default() };
        let capabilities = made(&request)["capabilities"].clone();
        assert_eq!(capabilities["bounding"], json!(ALL));
        assert_eq!(capabilities["effective"], json!(ALL));
        assert!(capabilities.get("inheritable").is_none());
    }

    #[test]
    fn refusals() {
        let no_command = ExecRequest::default();
        let relative = ExecRequest {
            command: vec!["ls".into()],
            working_dir: "tmp".into(),
            ..ExecRequest::default()
        };
        let user = ExecRequest {
            command: vec!["ls".into()],
            user: "0:2147483648".into(),
            ..ExecRequest::default()
        };
        for bad in [no_command, relative, user] {
            let err = process_with(&container(), &bad, &ALL).unwrap_err();
            assert_eq!(err.kind(), gantry_core::Kind::InvalidArgument);
        }
    }
}
