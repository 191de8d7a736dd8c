mod gone;
mod http1;
mod http2;
mod meshed;
mod retries;
mod support;
mod unread;
