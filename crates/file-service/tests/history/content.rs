//! Contents that identify their writer and reveal whether they are whole. A file is a sequence of chunks. Each writing
//! operation writes one chunk of its own.

/// The number of the operation that writes the chunk.
pub type Chunk = u32;

const HEADER_BYTES: usize = "#00000000 00000000 00000000\n".len();

/// FNV-1a, 32 bits.
fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |sum, byte| (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// A chunk: a header with number, length and checksum, then the padding.
pub fn chunk(number: Chunk, padding_bytes: usize) -> Vec<u8> {
    let padding: Vec<u8> = (0..padding_bytes).map(|at| (at ^ at >> 8 ^ number as usize) as u8).collect();
    let header = format!("#{number:08x} {padding_bytes:08x} {:08x}\n", checksum(&padding));
    [header.into_bytes(), padding].concat()
}

/// Splits a content into its chunks.
///
/// # Errors
/// The content is torn; the text says where.
pub fn chunks(mut content: &[u8]) -> Result<Vec<Chunk>, String> {
    let mut found = Vec::new();
    while !content.is_empty() {
        let (header, rest) = content.split_at_checked(HEADER_BYTES).ok_or("a header is cut off")?;
        let header = std::str::from_utf8(header).ok().and_then(|text| text.strip_prefix('#')?.strip_suffix('\n'));
        let fields = header.ok_or_else(|| format!("no header after {found:?}"))?.split(' ');
        let fields: Option<Vec<u32>> = fields.map(|field| u32::from_str_radix(field, 16).ok()).collect();
        let Some([number, length, sum]) = fields.as_deref() else {
            return Err(format!("a damaged header after {found:?}"));
        };
        let padding = rest.split_at_checked(*length as usize);
        let (padding, rest) = padding.ok_or_else(|| format!("the chunk of operation {number} is cut off"))?;
        if checksum(padding) != *sum {
            return Err(format!("the chunk of operation {number} is damaged"));
        }
        found.push(*number);
        content = rest;
    }
    Ok(found)
}

#[test]
fn a_content_that_is_not_whole_is_found_out() {
    let (one, two) = (chunk(1, 100), chunk(2, 5000));
    assert_eq!(chunks(&[&one[..], &two].concat()), Ok(vec![1, 2]));
    assert_eq!(chunks(b""), Ok(vec![]));
    assert!(chunks(&two[..two.len() - 1]).is_err_and(|err| err.contains("operation 2 is cut off")));
    let half = two.len() / 2;
    let torn = [&two[..half], &chunk(3, 5000)[half..]].concat();
    assert!(chunks(&torn).is_err_and(|err| err.contains("operation 2 is damaged")));
    assert!(chunks(&[&one[..], b"tail"].concat()).is_err());
}
