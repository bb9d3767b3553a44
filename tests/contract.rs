//! `gantry.engine.v1` is a promise: what was published stays as it was.
//!
//! `proto/gantry/engine/v1/engine.v1.binpb` holds it as a `FileDescriptorSet`, which tools of
//! any language read, and `engine.v1.txt` a line for each fact of it, for people. `make contract`
//! writes both anew after something was added.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use gantry_grpc::FILE_DESCRIPTOR_SET;
use gantry_tests::paths;
use prost::Message;
use prost_types::field_descriptor_proto::Label;
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet};

const PACKAGE: &str = "gantry.engine.v1";
/// Set to have the files written.
const WRITE: &str = "GANTRY_CONTRACT_WRITE";

fn file(extension: &str) -> PathBuf {
    paths::source().join(format!("proto/gantry/engine/v1/engine.v1.{extension}"))
}

/// The contract as it is built, with what it imports.
fn built() -> FileDescriptorSet {
    let mut set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("it was just encoded");
    let ours = |name: &str| name.starts_with("gantry/engine/") || name.starts_with("google/");
    set.file.retain(|file| ours(file.name()));
    set
}

/// What clients rely on, a line each.
fn facts(set: &FileDescriptorSet) -> BTreeSet<String> {
    let mut facts = BTreeSet::new();
    for file in set.file.iter().filter(|file| file.package() == PACKAGE) {
        file.message_type.iter().for_each(|message| of_message(PACKAGE, message, &mut facts));
        file.enum_type.iter().for_each(|e| of_enum(PACKAGE, e, &mut facts));
        for service in &file.service {
            for method in &service.method {
                let stream = |is: bool| if is { "stream " } else { "" };
                facts.insert(format!(
                    "rpc {}.{}({}{}) returns ({}{})",
                    service.name(),
                    method.name(),
                    stream(method.client_streaming()),
                    method.input_type(),
                    stream(method.server_streaming()),
                    method.output_type(),
                ));
            }
        }
    }
    facts
}

fn of_message(scope: &str, message: &DescriptorProto, facts: &mut BTreeSet<String>) {
    let name = format!("{scope}.{}", message.name());
    facts.insert(format!("message {name}"));
    for field in &message.field {
        facts.insert(format!(
            "field {name} {} = {}: {}{}{}",
            field.name(),
            field.number(),
            label(field),
            field.r#type().as_str_name().trim_start_matches("TYPE_").to_lowercase(),
            if field.type_name().is_empty() { "" } else { field.type_name() },
        ));
        if let (Some(oneof), false) = (field.oneof_index, field.proto3_optional()) {
            let oneof = message.oneof_decl[oneof as usize].name();
            facts.insert(format!("oneof {name}.{oneof} holds {}", field.name()));
        }
    }
    message.nested_type.iter().for_each(|nested| of_message(&name, nested, facts));
    message.enum_type.iter().for_each(|e| of_enum(&name, e, facts));
}

fn label(field: &FieldDescriptorProto) -> &'static str {
    match field.label() {
        Label::Repeated => "repeated ",
        _ if field.proto3_optional() => "optional ",
        // A field that joins or leaves a oneof is another to clients.
        _ if field.oneof_index.is_some() => "oneof ",
        _ => "",
    }
}

fn of_enum(scope: &str, e: &EnumDescriptorProto, facts: &mut BTreeSet<String>) {
    for value in &e.value {
        facts.insert(format!("enum {scope}.{} {} = {}", e.name(), value.name(), value.number()));
    }
}

/// What of the promise is broken.
fn broken(kept: &FileDescriptorSet, new: &FileDescriptorSet) -> Vec<String> {
    facts(kept).difference(&facts(new)).cloned().collect()
}

#[test]
#[expect(clippy::print_stderr, reason = "the test runner shows it to whoever added something")]
fn what_was_published_stays() {
    let built = built();
    if std::env::var_os(WRITE).is_some() {
        let lines: Vec<String> = facts(&built).into_iter().collect();
        fs::write(file("binpb"), built.encode_to_vec()).expect("write the contract");
        fs::write(file("txt"), lines.join("\n") + "\n").expect("write its listing");
    }
    let bytes = fs::read(file("binpb")).expect("the contract is kept");
    let kept = FileDescriptorSet::decode(&*bytes).expect("a FileDescriptorSet");
    let broken = broken(&kept, &built);
    assert!(
        broken.is_empty(),
        "clients of {PACKAGE} rely on what is gone or different now; add beside it instead:\n{}",
        broken.join("\n")
    );
    let listed = fs::read_to_string(file("txt")).expect("its listing is kept");
    let lines: BTreeSet<String> = listed.lines().map(str::to_owned).collect();
    assert_eq!(lines, facts(&kept), "listing and descriptors differ: run `make contract`");
    let added = facts(&built).len() - facts(&kept).len();
    if added > 0 {
        eprintln!("{added} facts of {PACKAGE} are new: run `make contract` to publish them");
    }
}

#[test]
fn every_kind_of_break_is_seen() {
    let kept = built();
    assert!(facts(&kept).len() > 200, "{} facts", facts(&kept).len());
    assert_eq!(broken(&kept, &kept), [""; 0]);
    type Change = fn(&mut FileDescriptorSet);
    fn containers(set: &mut FileDescriptorSet) -> &mut prost_types::FileDescriptorProto {
        let found = set.file.iter_mut().find(|file| file.name().ends_with("v1/containers.proto"));
        found.expect("it is there")
    }
    fn message<'a>(set: &'a mut FileDescriptorSet, name: &str) -> &'a mut DescriptorProto {
        let found = containers(set).message_type.iter_mut().find(|m| m.name() == name);
        found.expect("it is there")
    }
    let breaks: [(&str, Change); 10] = [
        ("field removed", |set| drop(message(set, "ContainerSpec").field.pop())),
        ("field renamed", |set| message(set, "ContainerSpec").field[0].name = Some("x".into())),
        ("field renumbered", |set| message(set, "ContainerSpec").field[0].number = Some(99)),
        ("field retyped", |set| {
            message(set, "ContainerSpec").field[0]
                .set_type(prost_types::field_descriptor_proto::Type::Bytes);
        }),
        ("field repeated", |set| {
            message(set, "ContainerSpec").field[0].set_label(Label::Repeated);
        }),
        ("field out of its oneof", |set| {
            message(set, "SessionInput").field[0].oneof_index = None;
        }),
        ("message removed", |set| drop(containers(set).message_type.pop())),
        ("rpc removed", |set| drop(containers(set).service[0].method.pop())),
        ("stream", |set| containers(set).service[0].method[0].server_streaming = Some(false)),
        ("enum value", |set| containers(set).enum_type[0].value[0].number = Some(7)),
    ];
    for (what, change) in breaks {
        let mut new = kept.clone();
        change(&mut new);
        assert!(!broken(&kept, &new).is_empty(), "{what} is not seen");
    }
    let mut new = kept.clone();
    let more =
        FieldDescriptorProto { name: Some("more".into()), number: Some(77), ..Default::default() };
    message(&mut new, "ContainerSpec").field.push(more);
    assert_eq!(broken(&kept, &new), [""; 0], "what is added breaks nothing");
}
