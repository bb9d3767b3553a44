//! The integration tests: the built binaries, real images and a real registry.
//! One module an area.

mod clients;
mod collect;
mod commands;
mod contract;
mod controller;
mod ctr;
mod docker;
mod faults;
mod full;
mod gantry;
mod graph;
mod guest;
mod long;
mod plugins;
mod power;
mod recovery;
mod roots;
mod rpcs;
mod shims;
mod stock;
mod transfer;
