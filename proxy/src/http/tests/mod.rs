mod framing;
mod http1;
mod http2;
mod retries;
mod support;
