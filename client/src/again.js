// Loads the page again, but not over and over; and not where that cannot be known, as in a sandbox without storage.
export const again = () => {
  try {
    if (!(Date.now() - sessionStorage.afterload < 6e4)) {
      sessionStorage.afterload = Date.now();
      location.reload();
      return 1;
    }
  } catch {}
};
