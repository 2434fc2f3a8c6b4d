import svelte from "eslint-plugin-svelte";
import ts from "typescript-eslint";

export default ts.config(...ts.configs.recommended, ...svelte.configs["flat/recommended"], ...svelte.configs["flat/prettier"], {
  languageOptions: { parserOptions: { parser: ts.parser, extraFileExtensions: [".svelte"] } },
  rules: {
    // Links are made by `href()` of lib/router, which knows the base.
    "svelte/no-navigation-without-resolve": "off",
    "@typescript-eslint/no-unused-vars": ["error", { argsIgnorePattern: "^_" }],
  },
});
