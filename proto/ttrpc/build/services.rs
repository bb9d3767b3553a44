//! Writes a client, a server trait and a dispatcher for each service.

use std::fmt::Write;

use prost_build::{Method, Service, ServiceGenerator};

/// Generates what `gantry_ttrpc::{Client, Service}` need to be typed.
pub(crate) struct Generator;

impl ServiceGenerator for Generator {
    fn generate(&mut self, service: Service, buf: &mut String) {
        // Writing to a String cannot fail.
        let _ = write_service(&service, buf);
    }
}

/// Full names under which a service is known; the newest one first.
fn full_names(service: &Service) -> Vec<String> {
    let mut names = vec![format!("{}.{}", service.package, service.proto_name)];
    if service.package == "containerd.task.v3" {
        names.push(format!("containerd.task.v2.{}", service.proto_name));
    }
    names
}

fn doc(indent: &str, lines: &[String], buf: &mut String) -> std::fmt::Result {
    for line in lines {
        writeln!(buf, "{indent}///{line}")?;
    }
    Ok(())
}

fn write_service(service: &Service, buf: &mut String) -> std::fmt::Result {
    let name = &service.name;
    let constant = format!("{}_SERVICES", name.to_uppercase());
    writeln!(
        buf,
        "/// Full names under which [`{name}`] is served, the newest first.\n\
         pub const {constant}: &[&str] = &{:?};",
        full_names(service)
    )?;
    write_client(service, &constant, buf)?;
    write_trait(service, buf)?;
    write_server(service, &constant, buf)
}

fn write_client(service: &Service, constant: &str, buf: &mut String) -> std::fmt::Result {
    let name = &service.name;
    writeln!(
        buf,
        "/// Calls [`{name}`] over a connection.\n\
         #[derive(Clone, Debug)]\n\
         pub struct {name}Client {{ client: crate::Client, service: &'static str }}\n\
         impl {name}Client {{\n    \
             /// Calls the service under its newest name.\n    \
             pub fn new(client: crate::Client) -> Self {{ Self {{ client, service: {constant}[0] }} }}\n    \
             /// Calls the service under another of its names.\n    \
             pub fn with_service(client: crate::Client, service: &'static str) -> Self {{ Self {{ client, service }} }}\n    \
             /// The connection.\n    \
             pub fn connection(&self) -> &crate::Client {{ &self.client }}"
    )?;
    for m in &service.methods {
        doc("    ", &m.comments.leading, buf)?;
        writeln!(
            buf,
            "    pub async fn {}(&self, request: &{}, options: &crate::CallOptions) -> Result<{}, crate::Status> {{\n        \
                 self.client.call(self.service, {:?}, request, options).await\n    }}",
            m.name, m.input_type, m.output_type, m.proto_name
        )?;
    }
    writeln!(buf, "}}")
}

fn write_trait(service: &Service, buf: &mut String) -> std::fmt::Result {
    let name = &service.name;
    doc("", &service.comments.leading, buf)?;
    writeln!(
        buf,
        "///\n/// Methods that are not written answer `Unimplemented`.\n\
         #[allow(unused_variables)]\npub trait {name} {{"
    )?;
    for m in &service.methods {
        doc("    ", &m.comments.leading, buf)?;
        writeln!(
            buf,
            "    fn {}(&self, context: &crate::Context, request: {}) -> impl Future<Output = Result<{}, crate::Status>> {{\n        \
                 async {{ Err(crate::Status::unimplemented_method({:?})) }}\n    }}",
            m.name, m.input_type, m.output_type, m.proto_name
        )?;
    }
    writeln!(buf, "}}")
}

fn write_server(service: &Service, constant: &str, buf: &mut String) -> std::fmt::Result {
    let name = &service.name;
    writeln!(
        buf,
        "/// Serves a [`{name}`] held by any pointer, `Rc` and `Arc` among them.\n\
         #[derive(Clone, Debug)]\n\
         pub struct {name}Server<P>(pub P);\n\
         impl<P: std::ops::Deref<Target: {name}>> crate::Service for {name}Server<P> {{\n    \
             fn serves(&self, service: &str) -> bool {{ {constant}.contains(&service) }}\n    \
             async fn call(&self, call: crate::Call) -> Result<crate::Reply, crate::Status> {{\n        \
                 match call.method.as_str() {{"
    )?;
    for Method { name, proto_name, .. } in &service.methods {
        writeln!(
            buf,
            "            {proto_name:?} => crate::Reply::new(&self.0.{name}(&call.context, call.decode()?).await?),"
        )?;
    }
    writeln!(
        buf,
        "            method => Err(crate::Status::unimplemented_method(method)),\n        }}\n    }}\n}}"
    )
}
