//! Room in memory for what is staged and not written.

/// Room for the bytes of one record in memory, until they are written.
pub(crate) struct Room<'a>(pub(super) Option<tokio::sync::SemaphorePermit<'a>>);

impl Room<'_> {
    /// Of the room, `bytes` are taken until they are written; the rest is given back.
    pub(super) fn use_up(&mut self, bytes: u32) {
        if let Some(permit) = &mut self.0 {
            let used = permit.split(bytes as usize);
            debug_assert!(used.is_some(), "{bytes} bytes were staged without room for them");
            if let Some(used) = used {
                used.forget();
            }
        }
    }
}
