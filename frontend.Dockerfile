# The web demo's page on port 80; all other requests are forwarded to the server. See docs/serve.md.
FROM node:22-slim AS build
WORKDIR /source/frontend
COPY frontend/package.json frontend/package-lock.json ./
RUN npm ci
COPY sam2fast/demo/media ../sam2fast/demo/media
COPY frontend ./
RUN npm run build -- --outDir /bundle --emptyOutDir

FROM nginx:1.29
COPY --from=build /bundle /usr/share/nginx/html
COPY frontend.nginx.conf /etc/nginx/conf.d/default.conf
EXPOSE 80
