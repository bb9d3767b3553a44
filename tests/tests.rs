//! The integration tests: the built binaries, real images and a real registry.
//! One module an area.

mod clients;
mod collect;
mod commands;
mod contract;
mod controller;
mod copy;
mod ctr;
mod cves;
mod docker;
mod docker_rows;
mod faults;
mod flags;
mod full;
mod gantry;
mod graph;
mod guest;
mod health;
mod inspect;
mod life;
mod logs;
mod long;
mod look;
mod networks;
mod plugins;
mod power;
mod rails;
mod recovery;
mod remote;
mod roots;
mod rpcs;
mod servers;
mod shims;
mod stock;
mod transfer;
mod volumes;
