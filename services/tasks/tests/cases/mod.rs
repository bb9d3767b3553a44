//! Further areas of the task manager.

mod dialects;
mod interrupted;
mod leftovers;
mod refusals;
mod roots;
mod sandboxes;
