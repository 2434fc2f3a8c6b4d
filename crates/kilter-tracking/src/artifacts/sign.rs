//! Signed addresses of S3 for more than `object_store` signs: those of the parts of an upload.

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

const SIGNATURE: &str = "X-Amz-Signature";

/// A signed address to `PUT` to, with more in its query and signed again, until the same moment; none: it is none.
pub(super) fn with_query(signed: &str, secret: &str, more: &[(&str, String)]) -> Option<String> {
    let (address, query) = signed.split_once('?')?;
    let (host, path) = address.split_once("://")?.1.split_once('/')?;
    let mut pairs: Vec<(String, String)> = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (decoded(key), decoded(value)))
        .filter(|(key, _)| key != SIGNATURE)
        .chain(more.iter().map(|(key, value)| ((*key).to_owned(), value.clone())))
        .map(|(key, value)| (encoded(&key), encoded(&value)))
        .collect();
    pairs.sort();
    let value = |name: &str| pairs.iter().find(|(key, _)| key == name).map(|(_, value)| decoded(value));
    let (credential, date) = (value("X-Amz-Credential")?, value("X-Amz-Date")?);
    let scope = credential.split_once('/')?.1;
    let query = pairs.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join("&");
    let request = format!("PUT\n/{path}\n{query}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD");
    let signature = signature(secret, &date, scope, &request);
    Some(format!("{address}?{query}&{SIGNATURE}={signature}"))
}

/// Signature V4 of a canonical request.
fn signature(secret: &str, date: &str, scope: &str, request: &str) -> String {
    let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hex(&Sha256::digest(request)));
    let key = scope.split('/').fold(format!("AWS4{secret}").into_bytes(), |key, part| hmac(&key, part));
    hex(&hmac(&key, &text))
}

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    // A key of any length is taken.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return Vec::new() };
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A part of a query, with all encoded that Signature V4 wants encoded.
fn encoded(text: &str) -> String {
    let one = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(one).collect()
}

fn decoded(text: &str) -> String {
    let spaced = text.replace('+', " ");
    String::from_utf8(super::path::decode(spaced.as_bytes()).unwrap_or_else(|| spaced.clone().into_bytes())).unwrap_or(spaced)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";

    #[test]
    fn the_example_in_the_documentation_of_s3_gets_its_signature() {
        let request = "GET\n/test.txt\nX-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request&\
                       X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host\nhost:examplebucket.s3.amazonaws.com\n\nhost\n\
                       UNSIGNED-PAYLOAD";
        let signed = signature(SECRET, "20130524T000000Z", "20130524/us-east-1/s3/aws4_request", request);
        assert_eq!(signed, "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404");
    }

    #[test]
    fn an_address_is_signed_again_with_what_is_added() {
        let of_get = "https://b.s3.amazonaws.com/a%20b/c.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=KEY%2F20130524%2Fus-east-1%2Fs3%2Faws4_request\
                      &X-Amz-Date=20130524T000000Z&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature=0";
        let signed = with_query(of_get, SECRET, &[("partNumber", "1".into()), ("uploadId", "x/y+z~".into())]).unwrap();
        let (rest, signature) = signed.rsplit_once("&X-Amz-Signature=").unwrap();
        assert!(rest.ends_with("&X-Amz-SignedHeaders=host&partNumber=1&uploadId=x%2Fy%2Bz~"), "{rest}");
        assert!(rest.starts_with("https://b.s3.amazonaws.com/a%20b/c.txt?X-Amz-Algorithm="), "{rest}");
        assert!(signature.len() == 64 && !signed.contains("Signature=0"), "{signed}");
        assert_eq!(with_query("https://b/c", SECRET, &[]), None);
    }
}
