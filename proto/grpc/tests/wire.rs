//! Holds the contracts against tables of facts about the wire, in
//! `tests/wire/*.tsv`: names, numbers and types that clients rely on.
//!
//! Fields of a row, by its first: `field` message, name, number, type, label,
//! oneof; `enum` enum, name, number; `message` message; `rpc` service, method,
//! request, response, client streams, server streams.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet};

/// Every fact of the descriptor sets, as a row of the tables.
#[derive(Default)]
struct Facts(BTreeSet<String>);

impl Facts {
    fn of(sets: &[&[u8]]) -> Self {
        let mut facts = Self::default();
        for file in sets.iter().flat_map(|set| FileDescriptorSet::decode(*set).unwrap().file) {
            assert_eq!(file.syntax(), "proto3", "{}", file.name());
            let package = file.package();
            file.message_type.iter().for_each(|m| facts.message(package, m));
            file.enum_type.iter().for_each(|e| facts.enumeration(package, e));
            for service in &file.service {
                for m in &service.method {
                    facts.0.insert(format!(
                        "rpc\t{package}.{}\t{}\t{}\t{}\t{}\t{}",
                        service.name(),
                        m.name(),
                        bare(m.input_type()),
                        bare(m.output_type()),
                        u8::from(m.client_streaming()),
                        u8::from(m.server_streaming()),
                    ));
                }
            }
        }
        facts
    }

    fn enumeration(&mut self, scope: &str, e: &EnumDescriptorProto) {
        for v in &e.value {
            self.0.insert(format!("enum\t{scope}.{}\t{}\t{}", e.name(), v.name(), v.number()));
        }
    }

    fn message(&mut self, scope: &str, m: &DescriptorProto) {
        let full = format!("{scope}.{}", m.name());
        self.0.insert(format!("message\t{full}"));
        let mut maps = BTreeMap::new();
        for nested in &m.nested_type {
            if nested.options.as_ref().is_some_and(|o| o.map_entry()) {
                let [key, value] = &nested.field[..] else { panic!("a map of {full}") };
                let map = format!("map<{},{}>", type_of(key), type_of(value));
                maps.insert(format!("{full}.{}", nested.name()), map);
            } else {
                self.message(&full, nested);
            }
        }
        m.enum_type.iter().for_each(|e| self.enumeration(&full, e));
        for f in &m.field {
            let mut kind = type_of(f);
            let mut oneof = "-";
            let label = if let Some(map) = maps.get(&kind) {
                kind.clone_from(map);
                "map"
            } else if f.label() == Label::Repeated {
                "repeated"
            } else if f.proto3_optional() && f.r#type() != Type::Message {
                "optional"
            } else {
                if let (Some(index), false) = (f.oneof_index, f.proto3_optional()) {
                    oneof = m.oneof_decl[usize::try_from(index).unwrap()].name();
                }
                "single"
            };
            let (name, number) = (f.name(), f.number());
            self.0.insert(format!("field\t{full}\t{name}\t{number}\t{kind}\t{label}\t{oneof}"));
        }
    }

    /// Rows that look like the wanted one: same owner, and name or number.
    fn near(&self, row: &str) -> Vec<&String> {
        let owner: Vec<&str> = row.split('\t').take(2).collect();
        let rest: Vec<&str> = row.split('\t').skip(2).take(2).collect();
        self.0
            .iter()
            .filter(|have| have.split('\t').take(2).eq(owner.iter().copied()))
            .filter(|have| have.split('\t').skip(2).take(2).zip(&rest).any(|(a, b)| a == *b))
            .collect()
    }
}

fn bare(name: &str) -> &str {
    name.strip_prefix('.').unwrap_or(name)
}

fn type_of(f: &FieldDescriptorProto) -> String {
    match f.r#type() {
        Type::Message | Type::Enum => bare(f.type_name()).to_owned(),
        scalar => scalar.as_str_name().trim_start_matches("TYPE_").to_ascii_lowercase(),
    }
}

fn check(name: &str, facts: &Facts, at_least: usize) {
    let path = Path::new("../../tests/wire").join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
    let rows: Vec<&str> =
        text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    assert!(rows.len() >= at_least, "{name} has {} rows only", rows.len());
    let wrong: Vec<String> = rows
        .iter()
        .filter(|row| !facts.0.contains(**row))
        .map(|row| format!("want {row}\n  have {:?}", facts.near(row)))
        .collect();
    let (bad, all) = (wrong.len(), rows.len());
    assert!(wrong.is_empty(), "{bad} of {all} facts fail:\n{}", wrong.join("\n"));
}

#[test]
fn the_daemons_services_hold_every_fact() {
    let facts = Facts::of(&[gantry_grpc::FILE_DESCRIPTOR_SET, gantry_ttrpc::FILE_DESCRIPTOR_SET]);
    check("containerd.tsv", &facts, 850);
}

#[test]
fn the_shims_services_hold_every_fact() {
    // Alone: a shim has nothing else.
    check("shim.tsv", &Facts::of(&[gantry_ttrpc::FILE_DESCRIPTOR_SET]), 250);
}

#[test]
fn a_wrong_number_is_found() {
    let facts = Facts::of(&[gantry_grpc::FILE_DESCRIPTOR_SET]);
    let message = "containerd.services.version.v1.VersionResponse";
    let right = format!("field\t{message}\trevision\t2\tstring\tsingle\t-");
    assert!(facts.0.contains(&right));
    let wrong = right.replace("\t2\t", "\t3\t");
    assert!(!facts.0.contains(&wrong));
    assert_eq!(facts.near(&wrong), [&right]);
}

/// The generated code of version 3 answers for version 2 as well.
#[test]
fn both_versions_of_the_task_service_are_the_same() {
    let facts = Facts::of(&[gantry_ttrpc::FILE_DESCRIPTOR_SET]);
    let of = |package: &str| -> BTreeSet<String> {
        let mine = facts.0.iter().filter(|row| row.contains(package));
        mine.map(|row| row.replace(package, "task")).collect()
    };
    let v3 = of("containerd.task.v3");
    assert!(v3.len() > 80, "{} facts", v3.len());
    assert_eq!(of("containerd.task.v2"), v3);
}
