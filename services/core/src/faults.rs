//! Points at which tests end the daemon: one before and one after each durable write and
//! each side effect. They exist with the feature `failpoints` only; otherwise what is here
//! does nothing but run its argument.

use std::fmt::Display;

#[cfg(feature = "failpoints")]
mod points {
    use std::sync::OnceLock;

    type Observer = Box<dyn Fn(&str) + Send + Sync>;

    /// Set once, before anything is passed.
    static OBSERVER: OnceLock<Observer> = OnceLock::new();

    /// Has somebody told of each point that is passed.
    pub fn observe(observer: impl Fn(&str) + Send + Sync + 'static) {
        // The first one stays.
        let _ = OBSERVER.set(Box::new(observer));
    }

    pub(super) fn pass(point: &str) {
        if let Some(observer) = OBSERVER.get() {
            observer(point);
        }
        fail::fail_point!(point);
    }
}

#[cfg(feature = "failpoints")]
pub use points::observe;

fn pass(name: &dyn Display, when: &str) {
    #[cfg(feature = "failpoints")]
    points::pass(&format!("{name}, {when}"));
    #[cfg(not(feature = "failpoints"))]
    let _ = (name, when);
}

/// Runs what outlives the daemon, between the points `NAME, before` and `NAME, after`.
pub fn around<R>(name: impl Display, effect: impl FnOnce() -> R) -> R {
    pass(&name, "before");
    let result = effect();
    pass(&name, "after");
    result
}

/// [`around`] for what waits.
pub async fn around_async<R>(name: impl Display, effect: impl Future<Output = R>) -> R {
    pass(&name, "before");
    let result = effect.await;
    pass(&name, "after");
    result
}
