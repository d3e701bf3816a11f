//! Catches panics where they must not end the process: while a configuration is evaluated and
//! compiled, and while its functions run.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `work` and returns a panic as an error. What `work` was changing may then be inconsistent:
/// the caller drops it, or explains why it is consistent.
///
/// # Errors
/// The panic's message, human-readable.
pub fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| format!("internal error: {}", message(&*panic)))
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without a message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error_with_its_message() {
        assert_eq!(caught(|| 1), Ok(1));
        assert_eq!(caught(|| -> u8 { panic!("one") }), Err("internal error: one".to_owned()));
        let two = 2;
        assert_eq!(caught(|| -> u8 { panic!("{two}") }), Err("internal error: 2".to_owned()));
        let silent = caught(|| std::panic::resume_unwind(Box::new(0_u8)));
        assert_eq!(silent, Err::<(), _>("internal error: a panic without a message".to_owned()));
    }
}
