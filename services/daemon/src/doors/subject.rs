//! What a certificate says of whom it was made for.
//!
//! The certificate was verified before: this reads the little that is wanted of its subject, a
//! sequence of sets of pairs of an object identifier and a text (RFC 5280, 4.1.2.4).

/// DER tags.
const OBJECT_IDENTIFIER: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// UTF8String, PrintableString, IA5String: those that hold UTF-8 or ASCII.
const TEXTS: [u8; 3] = [0x0c, 0x13, 0x16];
/// 2.5.4.3.
const COMMON_NAME: [u8; 3] = [0x55, 0x04, 0x03];

/// The subject can't be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// The common name of a subject, given without its outer tag and length. Empty when there is none;
/// a subject with several names stands for nobody in particular and is taken for malformed.
///
/// # Errors
/// [`Malformed`].
pub(super) fn common_name(subject: &[u8]) -> Result<String, Malformed> {
    let mut found = None;
    let mut sets = subject;
    while !sets.is_empty() {
        let mut pairs = expect(&mut sets, SET)?;
        while !pairs.is_empty() {
            let mut pair = expect(&mut pairs, SEQUENCE)?;
            let identifier = expect(&mut pair, OBJECT_IDENTIFIER)?;
            if identifier != COMMON_NAME {
                continue;
            }
            let (tag, text) = element(&mut pair)?;
            if !TEXTS.contains(&tag) || found.is_some() {
                return Err(Malformed);
            }
            let text = std::str::from_utf8(text).map_err(|_| Malformed)?;
            if text.chars().any(char::is_control) {
                return Err(Malformed);
            }
            found = Some(text.to_owned());
        }
    }
    Ok(found.unwrap_or_default())
}

fn expect<'a>(input: &mut &'a [u8], wanted: u8) -> Result<&'a [u8], Malformed> {
    match element(input)? {
        (tag, content) if tag == wanted => Ok(content),
        _ => Err(Malformed),
    }
}

/// Takes one element: its tag and what it holds.
fn element<'a>(input: &mut &'a [u8]) -> Result<(u8, &'a [u8]), Malformed> {
    let bytes = *input;
    let [tag, first, rest @ ..] = bytes else { return Err(Malformed) };
    let (len, rest) = match *first {
        len @ 0..=0x7f => (usize::from(len), rest),
        0x81 => match rest {
            [len, rest @ ..] => (usize::from(*len), rest),
            [] => return Err(Malformed),
        },
        0x82 => match rest {
            [high, low, rest @ ..] => (usize::from(u16::from_be_bytes([*high, *low])), rest),
            _ => return Err(Malformed),
        },
        // No name is as long as that.
        _ => return Err(Malformed),
    };
    let (content, rest) = rest.split_at_checked(len).ok_or(Malformed)?;
    *input = rest;
    Ok((*tag, content))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn der(tag: u8, content: &[u8]) -> Vec<u8> {
        let mut all = vec![tag];
        match content.len() {
            len @ 0..=0x7f => all.push(len as u8),
            len => all.extend([0x81, len as u8]),
        }
        all.extend(content);
        all
    }

    fn name(identifier: u8, tag: u8, text: &[u8]) -> Vec<u8> {
        let identifier = der(OBJECT_IDENTIFIER, &[0x55, 0x04, identifier]);
        let pair = der(SEQUENCE, &[identifier, der(tag, text)].concat());
        der(SET, &pair)
    }

    #[test]
    fn common_names() {
        let organization = name(10, 0x0c, b"Example");
        let own = name(3, 0x13, b"ci");
        assert_eq!(common_name(&[organization.clone(), own.clone()].concat()).unwrap(), "ci");
        assert_eq!(common_name(&name(3, 0x0c, "é".as_bytes())).unwrap(), "é");
        assert_eq!(common_name(&organization).unwrap(), "");
        assert_eq!(common_name(&[]).unwrap(), "");
        let long = "x".repeat(200);
        assert_eq!(common_name(&name(3, 0x0c, long.as_bytes())).unwrap(), long);
    }

    #[test]
    fn what_is_malformed_is_nobody() {
        let own = name(3, 0x0c, b"ci");
        let two = [own.clone(), name(3, 0x0c, b"admin")].concat();
        let mut cut = own.clone();
        cut.pop();
        let mut longer = own.clone();
        longer[1] += 1;
        for bad in [
            two,
            cut,
            longer,
            // A UTF-16 text, a control character, bytes that are no text.
            name(3, 0x1e, b"\0c\0i"),
            name(3, 0x0c, b"ci\n"),
            name(3, 0x0c, b"\xff"),
            der(SEQUENCE, &own),
            vec![SET],
            vec![SET, 0x80],
            vec![SET, 0x83, 0, 0, 1, 0],
        ] {
            assert_eq!(common_name(&bad), Err(Malformed), "{bad:x?}");
        }
    }
}
