export default {
  compilerOptions: {
    runes: ({ filename }) => (filename.includes("node_modules") ? undefined : true),
    // What scrolls must be reachable by keyboard.
    warningFilter: (warning) => warning.code !== "a11y_no_noninteractive_tabindex",
  },
};
