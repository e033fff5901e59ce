//! What most sessions do not have most of the time, and must not take room for in each of them.

/// A value that is nearly always its default, and takes no more than a pointer while it is.
pub(super) struct Seldom<T>(Option<Box<T>>);

impl<T: Default> Seldom<T> {
    pub(super) const fn new() -> Self {
        Self(None)
    }

    /// The value, if there is one.
    pub(super) fn get(&self) -> Option<&T> {
        self.0.as_deref()
    }

    /// As [`Self::get`], to be changed.
    pub(super) fn get_mut(&mut self) -> Option<&mut T> {
        self.0.as_deref_mut()
    }

    /// The value, which is there from now on.
    pub(super) fn or_default(&mut self) -> &mut T {
        self.0.get_or_insert_default()
    }

    /// Gives back the room of a value that has become empty.
    pub(super) fn tidy(&mut self, is_empty: impl FnOnce(&T) -> bool) {
        if self.get().is_some_and(is_empty) {
            self.0 = None;
        }
    }
}
