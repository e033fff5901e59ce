use proptest::prelude::*;

use super::*;

/// Parts with their data, and whether the last boundary has come.
type Taken = (Vec<(Part, Vec<u8>)>, bool);

/// The parts of `body`, each with its whole data, when it is fed in pieces that end at `cuts`.
fn parts(body: &[u8], cuts: &[usize]) -> Result<Taken, Error> {
    let mut parser = Parser::new("XX");
    let mut parts: Vec<(Part, Vec<u8>)> = Vec::new();
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (body.len() + 1)).collect();
    cuts.extend([0, body.len()]);
    cuts.sort_unstable();
    for piece in cuts.windows(2) {
        parser.feed(&body[piece[0]..piece[1]]);
        while let Some(event) = parser.next()? {
            match event {
                Event::Part(part) => parts.push((part, Vec::new())),
                Event::Data(data) => parts.last_mut().expect("a part").1.extend(data),
                Event::End => return Ok((parts, true)),
            }
        }
        assert!(parser.buffer.len() <= piece[1] - piece[0] + UPLOAD_PART_HEADER_BYTES_MAX);
    }
    Ok((parts, false))
}

fn body(data: &[&[u8]]) -> Vec<u8> {
    let mut body = b"of no interest\r\n".to_vec();
    for data in data {
        body.extend(
            b"--XX \r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n",
        );
        body.extend(*data);
        body.extend(b"\r\n");
    }
    body.extend(b"--XX--\r\nnor this");
    body
}

proptest! {
    #[test]
    fn data_comes_out_as_it_went_in_however_it_is_cut(
        data in prop::collection::vec(prop::collection::vec(prop_oneof![
            Just(b'\r'), Just(b'\n'), Just(b'-'), Just(b'X'), any::<u8>()
        ], 0..60), 0..4),
        cuts in prop::collection::vec(any::<usize>(), 0..20),
    ) {
        prop_assume!(data.iter().all(|data| memmem::find(data, b"\r\n--XX").is_none()
            && !data.starts_with(b"--XX")));
        let slices: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
        let (parts, ended) = parts(&body(&slices), &cuts).expect("well formed");
        prop_assert!(ended);
        let given: Vec<&[u8]> = parts.iter().map(|(_, data)| data.as_slice()).collect();
        prop_assert_eq!(given, slices);
    }

    #[test]
    fn nonsense_is_refused_or_unfinished_and_never_held(
        nonsense in prop::collection::vec(any::<u8>(), 0..2_000),
        cuts in prop::collection::vec(any::<usize>(), 0..20),
    ) {
        let _either = parts(&nonsense, &cuts);
        let mut begun = b"--XX\r\n".to_vec();
        begun.extend(nonsense);
        let _either = parts(&begun, &cuts);
    }
}

#[test]
fn headers_of_a_part_are_understood_and_bounded() {
    let said = |headers: &str| {
        let body = format!("--XX\r\n{headers}\r\n\r\ndata\r\n--XX--");
        parts(body.as_bytes(), &[]).map(|(mut parts, _)| parts.remove(0).0)
    };
    let part = said(
        "content-DISPOSITION: Form-Data; name=file; filename=\"a \\\"b\\\" %22c\\d; e.txt\"\r\n\
         Content-Type: text/plain; charset=utf-8\r\nX-Checksum-SHA256: 00",
    );
    let part = part.expect("a part");
    assert_eq!(part.field, "file");
    assert_eq!(part.file_name.as_deref(), Some("a \"b\" \"c\\d; e.txt"));
    assert_eq!(
        part.content_type.as_deref(),
        Some("text/plain; charset=utf-8")
    );
    assert_eq!(part.checksum.as_deref(), Some("00"));
    said("Content-Type: text/plain").expect_err("no disposition");
    said("Content-Disposition: attachment; name=\"file\"").expect_err("no form-data");
    let long = "x".repeat(2 * UPLOAD_PART_HEADER_BYTES_MAX);
    let endless = format!("--XX\r\nContent-Disposition: form-data; filename=\"{long}");
    parts(endless.as_bytes(), &[]).expect_err("too long");
}

#[test]
fn a_body_that_breaks_off_has_no_end() {
    let whole = body(&[b"data"]);
    for length in 0..whole.len() - "--\r\nnor this".len() {
        let (_, ended) = parts(&whole[..length], &[]).expect("well formed so far");
        assert!(!ended, "{length}");
    }
    parts(b"--XXY\r\n", &[]).expect_err("another boundary that begins alike");
}

#[test]
fn boundaries_are_found() {
    let named = |value: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, value.parse().expect("a header"));
        boundary(&headers).ok()
    };
    let good = Some("a b".to_owned());
    assert_eq!(named("multipart/form-data; boundary=\"a b\""), good);
    assert_eq!(named("Multipart/Form-Data;x=y;BOUNDARY=a b"), good);
    for wrong in [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/mixed; boundary=a",
        "application/json",
        &format!("multipart/form-data; boundary={}", "a".repeat(71)),
    ] {
        assert_eq!(named(wrong), None, "{wrong}");
    }
    boundary(&HeaderMap::new()).expect_err("no header");
}
