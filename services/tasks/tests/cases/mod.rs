//! Further areas of the task manager.

mod dialects;
mod refusals;
mod roots;
mod sandboxes;
