//! The parts of the Distinguished Encoding Rules (ITU-T X.690) that the certificate extensions need.

/// Encodes tag, length and content.
fn value(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut out = vec![tag];
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => out.push(short),
        // Long form (8.1.3.5): the number of length bytes, then the length without leading zeros (10.1).
        _ => {
            let bytes = length.to_be_bytes();
            let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
            let bytes = bytes.get(zeros..).unwrap_or_default();
            out.push(0x80 | u8::try_from(bytes.len()).unwrap_or_default());
            out.extend_from_slice(bytes);
        }
    }
    out.extend_from_slice(content);
    out
}

pub(super) fn octets(content: &[u8]) -> Vec<u8> {
    value(0x04, content)
}

pub(super) fn utf8(text: &str) -> Vec<u8> {
    value(0x0c, text.as_bytes())
}

/// `YYMMDDhhmmssZ`.
pub(super) fn utc_time(text: &str) -> Vec<u8> {
    value(0x17, text.as_bytes())
}

pub(super) fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    value(0x30, &parts.concat())
}

/// `[0] EXPLICIT`: a complete value within another.
pub(super) fn explicit_0(inner: &[u8]) -> Vec<u8> {
    value(0xa0, inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_as_short_as_they_can_be() {
        let header = |length: usize| {
            let out = octets(&vec![7; length]);
            assert!(out.ends_with(&vec![7; length]));
            out.get(1..out.len() - length).map(<[u8]>::to_vec).unwrap()
        };
        assert_eq!(header(0), [0]);
        assert_eq!(header(127), [127]);
        assert_eq!(header(128), [0x81, 128]);
        assert_eq!(header(255), [0x81, 255]);
        assert_eq!(header(256), [0x82, 1, 0]);
        assert_eq!(header(65_535), [0x82, 255, 255]);
        assert_eq!(header(65_536), [0x83, 1, 0, 0]);
    }
}
