//! The integration tests: the built binaries, real images and a real registry.
//! One module an area.

mod ctr;
mod full;
mod gantry;
mod graph;
mod guest;
mod long;
mod power;
mod recovery;
mod stock;
