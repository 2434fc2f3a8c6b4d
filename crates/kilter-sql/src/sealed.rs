//! A value that threads share, and whose type nobody looks into again.
//!
//! Parse trees and plans are hundreds of types that hold each other. For each future that holds one the compiler proves that all of them may go to another
//! thread, and forgets it, since the proof goes round in circles: some seconds each time, minutes in all. Here it is proved once, where the value is made.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

pub struct Sealed<T>(Arc<dyn Holds<T> + Send + Sync>);

trait Holds<T> {
    fn value(&self) -> &T;
}

impl<T> Holds<T> for T {
    fn value(&self) -> &T {
        self
    }
}

impl<T: Send + Sync + 'static> Sealed<T> {
    pub fn new(value: T) -> Sealed<T> {
        Sealed(Arc::new(value))
    }
}

impl<T> Deref for Sealed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        (*self.0).value()
    }
}

impl<T> Clone for Sealed<T> {
    fn clone(&self) -> Sealed<T> {
        Sealed(Arc::clone(&self.0))
    }
}

impl<T: fmt::Debug> fmt::Debug for Sealed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
