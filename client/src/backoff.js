// Full jitter: pages that lost one server together do not come back to it together.
// https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
export const backoff = (base, failures, random = Math.random()) =>
  Math.min(3e4, base * 2 ** failures) * random;
