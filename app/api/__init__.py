"""HTTP only: endpoints read a request, open the pipeline or the admin services, and write the answer."""
