export default {
  compilerOptions: {
    runes: ({ filename }) => (filename.includes("node_modules") ? undefined : true),
    // What scrolls must be reachable by keyboard.
    warningFilter: (warning) =>
      !["a11y_no_noninteractive_tabindex", "a11y_no_noninteractive_element_to_interactive_role"].includes(warning.code),
  },
};
