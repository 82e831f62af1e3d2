//! Small files that a person can read and damage can't pass: JSON rows under a checksum.
//!
//! ```json
//! {"version":1,"crc32c":"1c291ca3","rows":…}
//! ```
//! The checksum (CRC-32C, in hexadecimal) is over the text of `rows` as it stands.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct File<'a> {
    version: u32,
    crc32c: String,
    #[serde(borrow)]
    rows: &'a RawValue,
}

/// The bytes of a file of `rows`, which must be text, numbers and lists of them.
pub(crate) fn encode(rows: &impl Serialize) -> Vec<u8> {
    // There is nothing in text, numbers and lists that JSON refuses.
    let rows = serde_json::value::to_raw_value(rows).expect("rows are JSON");
    let file = File { version: VERSION, crc32c: crc_of(&rows), rows: &rows };
    serde_json::to_vec(&file).expect("rows under a head are JSON")
}

/// The rows of a file, or what is wrong with its `bytes`, of which there may be `most`.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8], most: usize) -> Result<T, String> {
    if bytes.len() > most {
        return Err(format!("{} bytes, the most is {most}", bytes.len()));
    }
    let file: File<'_> = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if file.version != VERSION {
        return Err(format!("version {}, this node writes {VERSION}", file.version));
    }
    if file.crc32c != crc_of(file.rows) {
        return Err("its checksum differs".to_owned());
    }
    serde_json::from_str(file.rows.get()).map_err(|error| error.to_string())
}

fn crc_of(rows: &RawValue) -> String {
    format!("{:08x}", crc32c::crc32c(rows.get().as_bytes()))
}
