//! In-place edits of a message.

/// Returns what follows the message id.
#[must_use]
pub fn behind_id(message: &[u8]) -> &[u8] {
    message.get(2..).unwrap_or_default()
}

/// Writes the message id.
pub fn set_id(message: &mut [u8], id: u16) {
    if let Some(bytes) = message.first_chunk_mut() {
        *bytes = id.to_be_bytes();
    }
}
