// Relative, so that it works behind any path prefix. Keys that a person enters stay in this tab.
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null,
});
