//! Long answers, encoded while they are put together.

use bytes::{Buf, BufMut};
use prost::encoding::{self, DecodeContext, WireType};
use prost::{DecodeError, Message};

/// Number of the one field.
const ITEMS: u32 = 1;

/// Any message that is a list and nothing else, `repeated T items = 1`. Thousands of items take
/// the memory of their encoding, instead of that of as many messages at a time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    encoded: Vec<u8>,
}

impl Listing {
    /// Adds an item at the end.
    pub fn push(&mut self, item: &impl Message) {
        encoding::message::encode(ITEMS, item, &mut self.encoded);
    }
}

impl Message for Listing {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        buf.put_slice(&self.encoded);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        if tag != ITEMS {
            return encoding::skip_field(wire_type, tag, buf, ctx);
        }
        let mut item = Vec::new();
        encoding::bytes::merge(wire_type, &mut item, buf, ctx)?;
        encoding::bytes::encode(ITEMS, &item, &mut self.encoded);
        Ok(())
    }

    fn encoded_len(&self) -> usize {
        self.encoded.len()
    }

    fn clear(&mut self) {
        self.encoded.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gantry::engine::v1::{Image, ListImagesResponse};

    #[test]
    fn is_what_the_generated_message_would_be() {
        let image = |name: &str| Image { name: name.into(), size: 7, ..Image::default() };
        let images = vec![image("a"), image(""), image("c")];
        let mut listing = Listing::default();
        images.iter().for_each(|image| listing.push(image));
        let generated = ListImagesResponse { images }.encode_to_vec();
        assert_eq!(listing.encode_to_vec(), generated);
        assert_eq!(Listing::decode(generated.as_slice()).unwrap(), listing);
    }
}
