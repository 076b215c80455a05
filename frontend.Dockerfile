# The web demo's page on port 80, which passes everything else on to the server; see docs/serve.md.
FROM node:22-slim AS build
WORKDIR /source
COPY sam2fast/demo/frontend/package.json sam2fast/demo/frontend/package-lock.json ./
RUN npm ci
COPY sam2fast/demo/frontend ./
RUN SAM2FAST_BUNDLE=/bundle npm run build

FROM nginx:1.29
COPY --from=build /bundle /usr/share/nginx/html
COPY frontend.nginx.conf /etc/nginx/conf.d/default.conf
EXPOSE 80
