// A relative URL works behind any path prefix. Keys that a user enters stay in this tab.
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null,
});
